"""Do synthetic sources learn as they say, and only then?"""

from __future__ import annotations

import copy
import io
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import MLP, ConditionalSyntheticGradient, Linear, Signal, Steps, SyntheticGradient

SGD = partial(torch.optim.SGD, lr=0.1)


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _parameters(source: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in source.parameters()]


def test_the_loss_is_the_squared_error_summed_over_features_and_averaged_over_samples() -> None:
    h, gradient = torch.randn(6, 4), torch.randn(6, 4)
    source = SyntheticGradient()
    source.build(h, generator=_generator())
    loss = source.learn(h, Signal(step=0, gradient=gradient))  # a new synthesizer predicts zero
    assert loss == pytest.approx(gradient.square().sum(1).mean().item())


def test_a_step_does_not_depend_on_the_number_of_samples() -> None:
    h, gradient = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    once, twice = SyntheticGradient(optimizer=SGD), SyntheticGradient(optimizer=SGD)
    once.build(h, generator=_generator())
    twice.build(h, generator=_generator())
    once.learn(h, Signal(step=0, gradient=gradient))
    twice.learn(torch.cat([h, h]), Signal(step=0, gradient=torch.cat([gradient, gradient])))
    torch.testing.assert_close(_parameters(once), _parameters(twice))


def test_a_step_equals_the_same_regression_written_out() -> None:
    h, gradient, target = torch.randn(6, 4), torch.randn(6, 4), torch.randint(0, 3, (6,))
    source = ConditionalSyntheticGradient(3)
    source.build(h, generator=_generator())
    twin = nn.Linear(7, 4)
    nn.init.zeros_(twin.weight)
    nn.init.zeros_(twin.bias)
    adam = torch.optim.Adam(twin.parameters(), lr=1e-3)
    joined = torch.cat([h, nn.functional.one_hot(target, 3).float()], dim=1)
    for step in range(5):
        source.learn(h, Signal(step=step, target=target, gradient=gradient))
        adam.zero_grad()
        ((twin(joined) - gradient).square().sum() / 6).backward()
        adam.step()
    estimate = source.estimate(h, Signal(step=5, target=target))
    torch.testing.assert_close(estimate, twin(joined).detach())


def test_the_schedule_is_a_function_of_the_step_and_does_not_accumulate() -> None:
    h = torch.randn(6, 4)
    source = SyntheticGradient(optimizer=SGD, schedule=Steps((2, 4)))
    source.build(h, generator=_generator())
    rates = []
    for step in (0, 2, 2, 3, 4, 0):
        source.learn(h, Signal(step=step, gradient=torch.randn(6, 4)))
        assert source.regression.optimizer is not None
        rates.append(source.regression.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.01, 0.01, 0.01, 0.001, 0.1])


def test_the_base_rate_survives_a_checkpoint_taken_late_in_the_schedule() -> None:
    h = torch.randn(6, 4)
    source, loaded = (SyntheticGradient(optimizer=SGD, schedule=Steps((2,))) for _ in range(2))
    source.build(h, generator=_generator())
    source.learn(h, Signal(step=3, gradient=h))
    loaded.load_state_dict(source.state_dict())
    loaded.learn(h, Signal(step=0, gradient=h))
    assert loaded.regression.optimizer is not None
    assert loaded.regression.optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_build_draws_from_its_generator_and_leaves_the_global_one_alone() -> None:
    h = torch.randn(6, 4)
    before = torch.get_rng_state()
    same, again, other = (SyntheticGradient(MLP(hidden=(8,))) for _ in range(3))
    same.build(h, generator=_generator(1))
    torch.rand(3, generator=_generator(9))
    again.build(h, generator=_generator(1))
    other.build(h, generator=_generator(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(_parameters(same), _parameters(again), rtol=0, atol=0)
    assert not torch.equal(_parameters(same)[0], _parameters(other)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_parameters_have_the_dtype_of_h(dtype: torch.dtype) -> None:
    h = torch.randn(6, 4, dtype=dtype)
    source = ConditionalSyntheticGradient(3, MLP(hidden=(8,)))
    source.build(h, generator=_generator())
    assert {parameter.dtype for parameter in source.parameters()} == {dtype}
    estimate = source.estimate(h, Signal(step=0, target=torch.zeros(6).long()))
    assert isinstance(estimate, Tensor) and estimate.dtype == dtype


def test_batch_norm_uses_batch_statistics_in_estimate_and_moves_them_only_in_learn() -> None:
    h = 3 + 2 * torch.randn(16, 4)
    source = SyntheticGradient(MLP(hidden=(8,)))
    source.build(h, generator=_generator())
    norm = next(module for module in source.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.running_mean is not None and norm.num_batches_tracked is not None
    assert not norm.running_mean.any() and norm.num_batches_tracked == 0
    source.learn(h, Signal(step=0, gradient=h))
    assert norm.running_mean.any() and norm.num_batches_tracked == 1
    moved = norm.running_mean.clone()
    estimate = source.estimate(h, Signal(step=1))
    assert torch.equal(norm.running_mean, moved) and norm.num_batches_tracked == 1 and norm.training
    torch.testing.assert_close(estimate, source.regression.networks[0](h).detach(), rtol=0, atol=0)


def test_running_statistics_are_tracked_again_after_an_estimate_that_failed() -> None:
    source = SyntheticGradient(MLP(hidden=(8,)))
    source.build(torch.randn(6, 4), generator=_generator())
    norm = next(module for module in source.modules() if isinstance(module, nn.BatchNorm1d))
    with pytest.raises(RuntimeError):
        source.estimate(torch.randn(6, 5), Signal(step=0))
    assert norm.track_running_stats


def test_estimate_does_not_hand_out_the_memory_of_h() -> None:
    h = torch.randn(6, 4, requires_grad=True)
    source = SyntheticGradient(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    source.build(h, generator=_generator())
    estimate = source.estimate(h, Signal(step=0))
    assert isinstance(estimate, Tensor) and not estimate.requires_grad and estimate.grad_fn is None


def test_a_copy_steps_its_own_parameters() -> None:
    h, gradient = torch.randn(6, 4), torch.randn(6, 4)
    source = SyntheticGradient()
    source.build(h, generator=_generator())
    source.learn(h, Signal(step=0, gradient=gradient))
    other = copy.deepcopy(source)
    before = _parameters(source)
    other.learn(h, Signal(step=1, gradient=gradient))
    torch.testing.assert_close(_parameters(source), before, rtol=0, atol=0)
    source.learn(h, Signal(step=1, gradient=gradient))
    torch.testing.assert_close(_parameters(source), _parameters(other), rtol=0, atol=0)


def test_loading_in_memory_does_not_tie_two_sources_together() -> None:
    h, gradient = torch.randn(6, 4), torch.randn(6, 4)
    source, loaded = SyntheticGradient(), SyntheticGradient()
    source.build(h, generator=_generator())
    source.learn(h, Signal(step=0, gradient=gradient))
    loaded.load_state_dict(source.state_dict())
    expected = copy.deepcopy(source)
    loaded.learn(h, Signal(step=1, gradient=gradient))
    source.learn(h, Signal(step=1, gradient=gradient))
    expected.learn(h, Signal(step=1, gradient=gradient))
    torch.testing.assert_close(_parameters(source), _parameters(expected), rtol=0, atol=0)


def test_loading_into_a_source_built_for_another_shape_rebuilds_it() -> None:
    h = torch.randn(6, 4)
    source, loaded = SyntheticGradient(), SyntheticGradient()
    source.build(h, generator=_generator())
    source.learn(h, Signal(step=0, gradient=h))
    loaded.build(torch.randn(6, 9), generator=_generator())
    loaded.load_state_dict(source.state_dict())
    torch.testing.assert_close(loaded.estimate(h, Signal(step=1)), source.estimate(h, Signal(step=1)), rtol=0, atol=0)


def test_the_state_of_a_source_never_built_is_one_that_needs_building() -> None:
    stream = io.BytesIO()
    torch.save(SyntheticGradient().state_dict(), stream)
    stream.seek(0)
    loaded = SyntheticGradient()
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    with pytest.raises(ValueError, match="Call build"):
        loaded.estimate(torch.randn(6, 4), Signal(step=0))


def test_loading_does_not_move_the_global_generator() -> None:
    source = SyntheticGradient(MLP(hidden=(8,)))
    source.build(torch.randn(6, 4), generator=_generator())
    before = torch.get_rng_state()
    SyntheticGradient(MLP(hidden=(8,))).load_state_dict(source.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


def test_each_floating_point_member_has_its_own_synthesizer() -> None:
    own = nn.Linear(4, 4)
    h = (torch.randn(6, 4), torch.arange(6), torch.randn(6, 4))
    source = SyntheticGradient(own)
    source.build(h, generator=_generator())
    first, second = source.regression.networks
    assert first is not second and own not in (first, second)


class _Recorder(nn.Module):
    """Keeps what it was called with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))
        self.seen: list[tuple[Tensor, ...]] = []

    def forward(self, *arguments: Tensor) -> Tensor:
        self.seen.append(arguments)
        return arguments[0] * self.scale


@pytest.mark.parametrize(
    ("source", "count"),
    [(SyntheticGradient(_Recorder(4)), 1), (ConditionalSyntheticGradient(3, _Recorder(4)), 2)],
)
def test_a_module_of_the_users_own_gets_h_and_the_context_if_there_is_one(source: Any, count: int) -> None:
    h = torch.randn(6, 4)
    source.build(h, generator=_generator())
    source.estimate(h, Signal(step=0, target=torch.tensor([0, 1, 2, 0, 1, 2])))
    recorder = next(module for module in source.modules() if isinstance(module, _Recorder))
    seen = recorder.seen[-1]
    assert len(seen) == count and torch.equal(seen[0], h)
    assert count == 1 or seen[1].argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


def test_what_has_not_arrived_is_named() -> None:
    h = torch.randn(6, 4)
    source = ConditionalSyntheticGradient(3, Linear())
    source.build(h, generator=_generator())
    with pytest.raises(ValueError, match="signal of step 7 has no target"):
        source.estimate(h, Signal(step=7))
    with pytest.raises(ValueError, match="signal of step 8 has no gradient"):
        source.learn(h, Signal(step=8, target=torch.zeros(6).long()))


@pytest.mark.parametrize("source", [SyntheticGradient(), ConditionalSyntheticGradient(3)])
def test_an_h_without_a_floating_point_member_is_refused(source: Any) -> None:
    with pytest.raises(ValueError, match="needs a floating-point member in h"):
        source.build((torch.arange(6),), generator=_generator())


def test_a_source_that_was_not_built_says_so() -> None:
    with pytest.raises(ValueError, match="must be built before it learns"):
        SyntheticGradient().learn(torch.randn(6, 4), Signal(step=0, gradient=torch.randn(6, 4)))
