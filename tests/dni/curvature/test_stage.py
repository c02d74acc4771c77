"""Is the curvature of what a stage sees that of brute force, whichever way it is computed?"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dni import (
    MLP,
    ConditionalSyntheticGradient,
    LocalLoss,
    LossGradient,
    ParameterPartition,
    Signal,
    StageBatch,
    StageCurvature,
    Sum,
    Summary,
    SyntheticGradient,
    TrueGradient,
    summarise_stage,
)
from tests.dni.curvature.networks import random_direction, shapes_of
from tests.dni.sources.test_implied import built

PLAIN = MLP(hidden=(4,), batch_norm=False)
SOURCES: dict[str, Any] = {
    "linear": SyntheticGradient,
    "smooth": lambda: SyntheticGradient(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))),
    "conditional": lambda: ConditionalSyntheticGradient(2),
    "conditional mlp": lambda: ConditionalSyntheticGradient(2, PLAIN),
    "local": lambda: LocalLoss(2),
    "sum": lambda: Sum(LocalLoss(2), SyntheticGradient(PLAIN)),
    "loss": lambda: LossGradient(nn.CrossEntropyLoss()),
}


class _Wrapped(nn.Module):
    """No chain that Taylor series are known for, with the same parameters."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * 1.0)  # type: ignore[no-any-return]


def _stage() -> tuple[nn.Sequential, Tensor, Tensor]:
    """22 parameters; samples (5, 2), labels (5,)."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1), nn.SiLU(), nn.Linear(1, 2), nn.Linear(2, 3))
    return module.double(), torch.randn(5, 2, dtype=torch.float64), torch.randint(2, (5,))


def _brute_force(
    module: nn.Module, source: Any, batch: StageBatch, u: dict[str, Tensor], place: Tensor
) -> list[Tensor]:
    """From the field in parameter space, g(θ) = (∂h/∂θ)ᵀ M(h(θ)), and all of its first and second derivatives."""
    shapes = shapes_of(module)
    flat = torch.cat([own.detach().flatten() for own in module.parameters()]).requires_grad_()
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    named = {name: part.view(shapes[name]) for name, part in zip(shapes, flat.split(sizes), strict=True)}
    assert isinstance(batch.x, Tensor)
    h = functional_call(module, named, (batch.x,))
    (g,) = torch.autograd.grad(h, flat, _field(source, h, batch.signal), create_graph=True)
    a = _rows(g, flat)
    b = _rows(a.flatten(), flat).view(*a.shape, -1)
    moved = torch.cat([u[name].flatten() for name in shapes])
    ones = nn.functional.one_hot(place).double() * moved[:, None]
    count = len(batch.x)
    hessian = ones.T @ a.detach() @ ones / count
    third = torch.einsum("pqr,ps,qs,rs->s", b.detach(), ones, ones, ones) / count
    return [ones.T @ g.detach() / count, (hessian + hessian.T) / 2, third]


def _rows(values: Tensor, flat: Tensor) -> Tensor:
    """The gradient of each value, (V,) -> (V, P)."""
    ones = torch.eye(len(values), dtype=values.dtype)
    return torch.autograd.grad(values, flat, ones, is_grads_batched=True, create_graph=True)[0]


def _field(source: Any, h: Tensor, signal: Signal) -> Tensor:
    """What the source gives at h, with its graph."""
    match source:
        case SyntheticGradient():
            return source.regression.networks[0](h)  # type: ignore[no-any-return]
        case ConditionalSyntheticGradient():
            return source.regression.networks[0](h, signal.target)  # type: ignore[no-any-return]
        case LocalLoss():
            loss = source.regression.networks[0].loss(h, signal.target)  # type: ignore[operator]
        case LossGradient():
            loss = nn.functional.cross_entropy(h, signal.target, reduction="sum")  # type: ignore[arg-type]
        case _:
            return sum(_field(part, h, signal) for part in source.sources)  # type: ignore[return-value]
    return torch.autograd.grad(loss, h, create_graph=True)[0]


def _assert_close(found: Summary, expected: list[Tensor]) -> None:
    for own, other in zip((found.gradient, found.hessian, found.third), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10 * float(other.abs().max()))


@pytest.mark.parametrize("name", SOURCES)
def test_summary_of_what_a_stage_sees_equals_brute_force_on_either_path(name: str) -> None:
    module, x, target = _stage()
    source = built(SOURCES[name](), module(x).detach())
    batch, u = StageBatch(x=x, signal=Signal(step=0, target=target)), random_direction(module)
    partition = ParameterPartition.by_tensor(shapes_of(module))
    source.estimate(module(x).detach(), batch.signal)
    place = torch.cat([torch.full((own.numel(),), at) for at, own in enumerate(module.parameters())])
    expected = _brute_force(module, source, batch, u, place)
    assert all(float(order.abs().max()) > 1e-3 for order in expected)
    _assert_close(summarise_stage(module, source, [batch], u, partition), expected)
    wrapped = {f"inner.{name}": own for name, own in u.items()}
    other = ParameterPartition.by_tensor({name: tuple(own.shape) for name, own in wrapped.items()})
    _assert_close(summarise_stage(_Wrapped(module), source, [batch], wrapped, other), expected)


@pytest.mark.parametrize("wrap", [lambda module: module, _Wrapped])
def test_several_microbatches_give_the_mean_over_all_of_their_samples(wrap: Any) -> None:
    module, x, target = _stage()
    source = built(ConditionalSyntheticGradient(2), module(x).detach())
    stage = wrap(module)
    u, partition = random_direction(stage), ParameterPartition.by_layer(shapes_of(stage))
    parts = [StageBatch(x=x[at], signal=Signal(step=0, target=target[at])) for at in (slice(0, 2), slice(2, 5))]
    whole = summarise_stage(stage, source, [StageBatch(x=x, signal=Signal(step=0, target=target))], u, partition)
    _assert_close(summarise_stage(stage, source, parts, u, partition), [whole.gradient, whole.hessian, whole.third])


def test_other_values_take_the_place_of_the_stages_parameters_and_nothing_is_changed() -> None:
    module, x, target = _stage()
    source = built(LocalLoss(2), module(x).detach())
    batch, u = StageBatch(x=x, signal=Signal(step=0, target=target)), random_direction(module)
    partition = ParameterPartition.by_tensor(shapes_of(module))
    there = {name: own.detach() + u[name] for name, own in module.named_parameters()}
    before = copy.deepcopy((module.state_dict(), source.state_dict(), torch.get_rng_state()))
    found = summarise_stage(module, source, [batch], u, partition, parameters=there)
    after = (module.state_dict(), source.state_dict(), torch.get_rng_state())
    assert str(before) == str(after)
    assert all(own.grad is None for own in [*module.parameters(), *source.parameters()])
    with torch.no_grad():
        for name, own in module.named_parameters():
            own.copy_(there[name])
    expected = summarise_stage(module, source, [batch], u, partition)
    _assert_close(found, [expected.gradient, expected.hessian, expected.third])


class _InPlace(nn.Module):
    """Writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.clamp_(-0.3, 0.3))  # type: ignore[no-any-return]


def test_stage_that_writes_into_its_input_leaves_the_batch_as_it_was() -> None:
    torch.manual_seed(0)
    module, x = _InPlace(), torch.randn(5, 2, dtype=torch.float64)
    before, target = x.clone(), torch.randint(3, (5,))
    batch = StageBatch(x=x, signal=Signal(step=0, target=target))
    partition = ParameterPartition.by_tensor(shapes_of(module))
    loss = LossGradient(nn.CrossEntropyLoss())
    loss.build(torch.zeros(5, 3, dtype=torch.float64), generator=torch.Generator())
    loss.estimate(torch.zeros(5, 3, dtype=torch.float64), batch.signal)
    u = random_direction(module)
    found = [summarise_stage(module, loss, [batch], u, partition) for _ in range(2)]
    assert torch.equal(x, before) and torch.equal(found[0].hessian, found[1].hessian)


def test_source_without_a_loss_is_refused() -> None:
    module, x, _ = _stage()
    with pytest.raises(TypeError, match="TrueGradient implies no loss"):
        summarise_stage(
            module,
            TrueGradient(),
            [StageBatch(x=x, signal=Signal(step=0))],
            random_direction(module),
            ParameterPartition.as_one(shapes_of(module)),
        )


def test_subsets_are_by_tensor_by_layer_by_stage_or_named_and_those_of_other_stages_are_left_out() -> None:
    shapes = {"2.weight": (3, 2), "2.bias": (3,), "4.weight": (1, 3)}
    assert StageCurvature().partition(shapes).names == ("2.weight", "2.bias", "4.weight")
    assert StageCurvature(by="layer").partition(shapes).names == ("2", "4")
    assert StageCurvature(by="stage").partition(shapes).names == ("all",)
    own = {"low": ["0"], "biases": ["0.bias", "2.bias"], "weights": ["2.weight", "4"]}
    assert StageCurvature(by=own).partition(shapes).names == ("biases", "weights")
    with pytest.raises(ValueError, match=r"all of 3 numbers of 2\.bias are in none"):
        StageCurvature(by={"weights": ["2.weight", "4"]}).partition(shapes)
    with pytest.raises(ValueError, match=r"2\.bias of 'biases' is in 'all' too"):
        StageCurvature(by={"all": ["2", "4"], "biases": ["2.bias"]}).partition(shapes)


@pytest.mark.parametrize(("wrong", "says"), [({"by": "block"}, "got 'block'"), ({"microbatches": 0}, "got 0")])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        StageCurvature(**wrong)
