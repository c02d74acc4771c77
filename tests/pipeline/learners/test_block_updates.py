"""Do blocks learn at their own steps what a plain optimiser would make of them, and idle ones nothing?"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Block,
    BlockCadence,
    ByConfidence,
    Cadence,
    Channels,
    Columns,
    Layer,
    Pace,
    Parameter,
    Periodic,
    Quadrants,
    RateRule,
    Rows,
    Slice,
    split_in_blocks,
)
from pipeline.errors import CheckpointError
from pipeline.learners.updater import Updater

Factory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Factory] = {
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.01),
    "adamw": partial(torch.optim.AdamW, lr=0.01),
    "foreach": partial(torch.optim.AdamW, lr=0.01, foreach=True),
}
CUTS: dict[str, Sequence[Any]] = {
    "quadrants": [Quadrants("0.weight")],
    "rows and columns": [Rows("0.weight", 3), Columns("1.weight", 2)],
    "a box, the rest in pieces": [Slice("0.weight", ((2, 5), (1, 3)))],
    "channels, and a layer": [Channels("0", 2), Layer("1")],
    "parameters": [Parameter("0.weight"), Parameter("1.bias")],
}


def network(dtype: torch.dtype = torch.float32, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=bias), nn.Linear(8, 6, bias=bias)).to(dtype)


def make_updater(
    module: nn.Module,
    optimizer: Factory,
    chosen: Sequence[BlockCadence],
    *,
    rest: Cadence | None = None,
    rate_rule: RateRule = "none",
    **more: Any,
) -> Updater:
    parameters = dict(module.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    paired = [pair for each in chosen for pair in each.pair(shapes)]
    left = split_in_blocks(shapes, [block for block, _ in paired])
    whole: list[tuple[Block, Cadence]] = [*paired, (left, rest or Periodic())] if left.pieces else paired
    return Updater(
        parameters,
        optimizer=optimizer,
        schedule=lambda step: 1.0,
        blocks=[block for block, _ in whole],
        pace=Pace({block.name: cadence for block, cadence in whole}),
        rate_rule=rate_rule,
        **more,
    )


def backward(module: nn.Module, step: int, num_samples: int) -> None:
    x = torch.randn(num_samples, 6, generator=torch.Generator().manual_seed(step))
    module(x.to(next(module.parameters()).dtype)).square().sum().backward()


def learn(module: nn.Module, updater: Updater, steps: Iterable[int], size: Callable[[int], int] = lambda s: 4) -> None:
    for step in steps:
        due = updater.due(step)
        backward(module, step, size(step))
        updater.accumulate(size(step))
        if due:
            updater.apply_due(step)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def accumulated_loop(module: nn.Module, optimizer: torch.optim.Optimizer, *, steps: int, every: int) -> None:
    """What everybody writes: gradients add up, and are divided once by the samples."""
    for step in range(steps):
        backward(module, step, 4)
        if (step + 1) % every == 0:
            for parameter in module.parameters():
                assert parameter.grad is not None
                parameter.grad.div_(4 * every)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("cut", CUTS)
def test_same_cadence_everywhere_equals_the_plain_loop_that_accumulates(cut: str, optimizer: str, every: int) -> None:
    module, twin = network(), network()
    chosen = [BlockCadence(selector, Periodic(every)) for selector in CUTS[cut]]
    updater = make_updater(module, OPTIMIZERS[optimizer], chosen, rest=Periodic(every))
    learn(module, updater, range(9))
    accumulated_loop(twin, OPTIMIZERS[optimizer](twin.parameters()), steps=9, every=every)
    assert_equal(weights(module), weights(twin))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("every", [1, 3])
def test_whole_tensors_may_have_an_optimiser_that_does_not_treat_each_element_by_itself(every: int) -> None:
    module, twin = network(bias=False), network(bias=False)
    optimizer = partial(torch.optim.Muon, lr=0.01)
    updater = make_updater(module, optimizer, [BlockCadence(Layer("0"), Periodic(every))], rest=Periodic(every))
    learn(module, updater, range(9))
    accumulated_loop(twin, optimizer(twin.parameters()), steps=9, every=every)
    assert_equal(weights(module), weights(twin))


def test_slow_quadrant_equals_a_masked_twin() -> None:
    """Momentum and weight decay, written out for every element, and moved only where and when the mask says so."""
    module, size = network(torch.float64), lambda step: 3 + step % 2
    cadences = tuple(map(Periodic, (1, 2, 3, 4)))
    updater = make_updater(module, OPTIMIZERS["momentum"], [BlockCadence(Quadrants("0.weight"), cadences)])
    twin = network(torch.float64)
    rows, columns = torch.arange(8)[:, None] // 4, torch.arange(6)[None, :] // 3
    period = {name: torch.ones_like(p, dtype=torch.int64) for name, p in twin.named_parameters()}
    period["0.weight"] = 1 + 2 * rows + columns
    total, momentum = ({name: torch.zeros_like(p) for name, p in twin.named_parameters()} for _ in range(2))
    samples = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for step in range(12):
        learn(module, updater, [step], size)
        backward(twin, step, size(step))
        for name, weight in twin.named_parameters():
            assert weight.grad is not None
            total[name] += weight.grad
            samples[name] += size(step)
            weight.grad = None
            due = (step + 1) % period[name] == 0
            gradient = total[name] / samples[name] + 0.01 * weight.detach()
            momentum[name] = torch.where(due, 0.9 * momentum[name] + gradient, momentum[name])
            with torch.no_grad():
                weight -= torch.where(due, 0.1 * momentum[name], 0.0)
            total[name], samples[name] = (torch.where(due, 0.0, each[name]) for each in (total, samples))
        torch.testing.assert_close(weights(module), weights(twin), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_idle_block_does_not_move_at_all(optimizer: str) -> None:
    module = network()
    chosen = [BlockCadence(Quadrants("0.weight"), (Periodic(5), Periodic(), Periodic(), Periodic()))]
    updater = make_updater(module, OPTIMIZERS[optimizer], [*chosen, BlockCadence(Layer("1"), Periodic(5))])
    learn(module, updater, range(5))
    before = weights(module)
    learn(module, updater, range(5, 9))
    after = weights(module)
    assert torch.equal(before["0.weight"][:4, :3], after["0.weight"][:4, :3])
    assert torch.equal(before["1.weight"], after["1.weight"]) and torch.equal(before["1.bias"], after["1.bias"])
    assert not (before["0.weight"] == after["0.weight"])[:4, 3:].any()
    learn(module, updater, [9])
    assert not (before["0.weight"] == weights(module)["0.weight"])[:4, :3].any()


def test_parameter_that_took_no_part_in_a_window_is_not_moved_by_it() -> None:
    module = network()
    updater = make_updater(module, OPTIMIZERS["momentum"], [BlockCadence(Rows("1.weight"), (Periodic(1), Periodic(4)))])
    learn(module, updater, range(2))
    before = weights(module)
    due = updater.due(2)
    module[0](torch.ones(4, 6)).sum().backward()
    updater.accumulate(4)
    assert due and updater.apply_due(2)
    assert torch.equal(before["1.weight"], weights(module)["1.weight"])
    assert not torch.equal(before["0.weight"], weights(module)["0.weight"])


def test_only_what_is_applied_is_clipped_together() -> None:
    module = network(torch.float64)
    updater = make_updater(
        module, partial(torch.optim.SGD, lr=1.0), [BlockCadence(Rows("0.weight"), Periodic(3))], clip_norm=0.25
    )
    before = weights(module)
    learn(module, updater, range(2))
    once = weights(module)
    assert torch.equal(before["0.weight"], once["0.weight"])
    learn(module, updater, [2])
    moved = torch.cat([(once[name] - value).flatten() for name, value in weights(module).items()])
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize("rule", ["none", "linear", "sqrt"])
def test_rate_rule_follows_the_length_of_the_accumulation(rule: RateRule) -> None:
    factor = {"none": 1.0, "linear": 4.0, "sqrt": 2.0}[rule]
    module = network(torch.float64)
    updater = make_updater(
        module,
        partial(torch.optim.SGD, lr=0.5),
        [BlockCadence(Rows("0.weight"), (Periodic(4), Periodic(1)))],
        rate_rule=rule,
    )
    before = weights(module)["0.weight"]
    for step in range(4):
        due = updater.due(step)
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, 3.0)
        updater.accumulate(3)
        assert due and updater.apply_due(step)
    moved = before - weights(module)["0.weight"]
    torch.testing.assert_close(moved[:4], torch.full((4, 6), 0.5 * factor, dtype=torch.float64))
    torch.testing.assert_close(moved[4:], torch.full((4, 6), 4 * 0.5, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["none", "sqrt"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_goes_on_in_the_middle_of_every_window(optimizer: str, rule: RateRule) -> None:
    noisy = ByConfidence(warmup=1, longest=5)
    chosen = [
        BlockCadence(Quadrants("0.weight"), (Periodic(2), noisy, Periodic(5), Periodic(1))),
        BlockCadence(Parameter("1.bias"), noisy),
    ]
    make = partial(make_updater, optimizer=OPTIMIZERS[optimizer], chosen=chosen, rate_rule=rule)
    module = network()
    updater = make(module)
    learn(module, updater, range(8))
    file = io.BytesIO()
    torch.save(updater.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert set(state["gradients"]) == {"0.weight"} | ({"1.bias"} if "1.bias" in state["touched"] else set())
    assert "0.weight[0:4,3:6]" in state["optimizer"] and "1.weight" in state["optimizer"]
    resumed = network()
    resumed.load_state_dict(module.state_dict())
    other = make(resumed)
    other.load_state_dict(state)
    for m, u in ((module, updater), (resumed, other)):
        learn(m, u, range(8, 20))
    assert_equal(weights(resumed), weights(module))
    assert other.pace.state_dict() == updater.pace.state_dict()


def test_state_of_other_blocks_is_refused_by_name() -> None:
    plain = make_updater(network(), OPTIMIZERS["adam"], [])
    cut = make_updater(network(), OPTIMIZERS["adam"], [BlockCadence(Rows("0.weight"), Periodic())])
    module = network()
    other = make_updater(module, OPTIMIZERS["adam"], [BlockCadence(Columns("0.weight"), Periodic())])
    for updater, saved in ((plain, cut), (cut, plain), (cut, other), (other, cut)):
        with pytest.raises(CheckpointError, match=r"of other blocks.*this run has"):
            updater.load_state_dict(saved.state_dict())


def test_autograd_refuses_to_go_back_through_a_part_that_was_updated_since_the_forward() -> None:
    module = network()
    updater = make_updater(module, OPTIMIZERS["momentum"], [BlockCadence(Quadrants("1.weight"), Periodic())])
    late = module(torch.ones(2, 6)).sum()
    backward(module, 0, 4)
    updater.accumulate(4)
    updater.apply(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        late.backward()


def test_whole_blocks_are_the_parameters_themselves() -> None:
    module = network()
    updater = make_updater(module, OPTIMIZERS["adam"], [BlockCadence(Layer("0"), Periodic(2))])
    assert updater._optimizer is not None
    held = [parameter for group in updater._optimizer.param_groups for parameter in group["params"]]
    assert all(a is b for a, b in zip(held, module.parameters(), strict=True))
