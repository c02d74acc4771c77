"""Is the loss one of the chosen parameters alone, and is what trains left as it is?"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Objective,
    SymmetricOperator,
    eigenpairs,
    estimate_density,
    estimate_trace,
    hessian_operator,
    kronecker_factors,
)
from tests.dni.hessians.networks import batches, convolutional, perceptron


def _keyed(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(name.encode()))


class _Counting(nn.Linear):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        _Counting.calls += 1
        return super().forward(x) * _Counting.calls


class _Buffered(nn.Linear):
    def __init__(self) -> None:
        super().__init__(5, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return super().forward(x)


def _tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    net[1].weight = net[0].weight
    return net


def _frozen() -> nn.Module:
    net = perceptron()
    net[0].bias.requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("make", "names", "message"),
    [
        (perceptron, ["9"], "there is no parameter or layer '9' in the module; it has 0.weight, 0.bias"),
        (perceptron, ["1"], r"1 \(Tanh\) has no parameters"),
        (perceptron, [], "at least one parameter must be chosen"),
        (perceptron, ["0", "0.bias"], r"0.bias is chosen 2 times. Name a layer, or its parameters, once"),
        (_tied, ["1"], "0.weight and 1.weight are tied. Untie them"),
        (_frozen, ["0"], r"0.bias does not learn \(requires_grad is False\)"),
        (
            lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 3)),
            None,
            r"'0' \(Dropout\) draws numbers .* Call eval\(\)",
        ),
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)), None, r"'1' \(BatchNorm1d\) makes samples depend"),
        (lambda: nn.Sequential(nn.Linear(5, 3), nn.RReLU()), None, "the module draws numbers"),
        (lambda: _Counting(5, 3), None, "on the first batch it is .* and then"),
        (_Buffered, None, "its forward changes seen"),
    ],
)
def test_a_loss_without_a_hessian_is_refused_by_name(
    make: Callable[[], nn.Module], names: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(make(), nn.CrossEntropyLoss(), batches(5), parameters=names)


def test_no_batches_a_loss_that_is_not_finite_and_an_integer_type_are_refused() -> None:
    with pytest.raises(ValueError, match="got no batches"):
        Objective(perceptron(), nn.CrossEntropyLoss(), [])
    with pytest.raises(ValueError, match="a loss that is finite, got inf on the first batch"):
        Objective(perceptron(), lambda y, target: y.sum(1).abs() + float("inf"), batches(5))
    with pytest.raises(TypeError, match=r"got torch.int64. Take torch.float64"):
        Objective(perceptron(), nn.CrossEntropyLoss(), batches(5), dtype=torch.int64)


def test_without_names_all_parameters_that_learn_are_chosen_and_lie_in_their_order() -> None:
    objective = Objective(_frozen(), nn.CrossEntropyLoss(), batches(5))
    assert list(objective.shapes) == ["0.weight", "2.weight", "2.bias", "4.weight", "4.bias"]
    vector = torch.randn(objective.size, dtype=torch.float64)
    assert torch.equal(objective.flat(objective.split(vector)), vector)
    assert torch.equal(objective.split(vector)["2.weight"], vector[20:36].reshape(4, 4))


def _trained(net: nn.Module, probe: Callable[[nn.Module], None]) -> dict[str, Tensor]:
    """Five steps of training with dropout and BatchNorm, a probe before each."""
    torch.manual_seed(3)
    optimizer = torch.optim.Adam(net.parameters())
    for x, target in batches(2, 4, 4, sizes=[6] * 5):
        probe(net)
        net.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x.float()), target).backward()
        optimizer.step()
    return net.state_dict()


def test_probes_change_neither_module_nor_generators_so_training_ends_at_the_same_bits() -> None:
    x, target = batches(2, 4, 4, sizes=[5])[0]
    held = x.clone()
    seen: list[Tensor] = []

    def probe(net: nn.Module) -> None:
        gradients = [parameter.grad for parameter in net.parameters()]
        objective = Objective(copy.deepcopy(net).eval(), nn.CrossEntropyLoss(), [(x, target)], parameters=["0.weight"])
        operator = hessian_operator(objective)
        seen.append(eigenpairs(operator, 1, generator=_keyed("start")).values)
        estimate_trace(operator, num_draws=2, keyed=_keyed)
        kronecker_factors(objective, "0")
        assert [parameter.grad for parameter in net.parameters()] == gradients

    net = convolutional()
    watched: list[int] = []
    net[0].register_forward_hook(lambda *args: watched.append(1))  # someone watches: a probe must not be seen
    plain = _trained(copy.deepcopy(net), lambda net: None)
    after = _trained(net, probe)
    assert len(seen) == 5 and torch.equal(x, held)
    assert all(torch.equal(plain[name], after[name]) for name in plain)


@pytest.mark.parametrize("kind", ["eigenpairs", "trace", "density", "factors", "dense"])
def test_an_interrupted_probe_leaves_everything_as_it_was_and_can_be_begun_again(kind: str) -> None:
    net = perceptron()
    before, state = copy.deepcopy(net.state_dict()), torch.default_generator.get_state()
    objective = Objective(net, nn.CrossEntropyLoss(), batches(5), parameters=["0.weight"])
    operator = hessian_operator(objective)

    def run(progress: Callable[[int, int], object] | None) -> Any:
        return {
            "eigenpairs": lambda: eigenpairs(operator, 2, generator=_keyed("start"), progress=progress).values,
            "trace": lambda: estimate_trace(operator, num_draws=4, keyed=_keyed, progress=progress).draws,
            "density": lambda: (
                estimate_density(operator, num_draws=2, num_steps=4, keyed=_keyed, progress=progress).points
            ),
            "factors": lambda: kronecker_factors(objective, "0", progress=progress).output,
            "dense": lambda: operator.dense(progress=progress),
        }[kind]()

    plain, calls = run(None), itertools.count()

    def interrupt(done: int, of: int) -> None:
        assert 0 < done <= of
        if next(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    assert torch.equal(run(lambda done, of: None), plain)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    torch.testing.assert_close(torch.default_generator.get_state(), _after_batches(state))


def _after_batches(state: Tensor) -> Tensor:
    """Where the generator is when only the batches of the test have been drawn since."""
    torch.default_generator.set_state(state)
    batches(5)
    return torch.default_generator.get_state()


def test_weights_are_those_of_the_moment_and_samples_of_all_batches_count_alike() -> None:
    net, data = perceptron(), batches(5, sizes=(5, 2))
    operator = hessian_operator(Objective(net, nn.CrossEntropyLoss(), data, parameters=["4"]))
    whole = [(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data if y is not None]))]
    as_one = hessian_operator(Objective(net, nn.CrossEntropyLoss(reduction="sum"), whole, parameters=["4"]))
    summed = hessian_operator(Objective(net, nn.CrossEntropyLoss(), data, parameters=["4"], over="sum"))
    with torch.no_grad():
        net[4].weight.zero_()
    matrix = operator.dense()
    torch.testing.assert_close(matrix, as_one.dense(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(7 * matrix, summed.dense(), rtol=1e-12, atol=1e-14)


def test_an_operator_says_what_it_cannot_take_or_give(generator: torch.Generator) -> None:
    operator = hessian_operator(Objective(perceptron(), nn.CrossEntropyLoss(), batches(5)))
    with pytest.raises(ValueError, match=rf"the {operator.size} entries of the operator, got \(3,\)"):
        operator(torch.zeros(3))
    net = nn.Linear(5, 3)
    rough = hessian_operator(Objective(net, lambda y, target: y.sub(y.detach()).square().sum(1).sqrt(), batches(5)))
    with pytest.raises(ValueError, match="entries of a product are not finite: the loss has no second derivative"):
        rough(torch.randn(18, generator=generator))
    half = SymmetricOperator(size=2, dtype=torch.bfloat16, device=torch.device("cpu"), product=lambda v: v)
    with pytest.raises(TypeError, match=r"SciPy computes in float32 or float64, got torch.bfloat16"):
        half.to_scipy()
