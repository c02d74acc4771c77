"""Do gradients that come late do what the papers say? Against twins written out in plain PyTorch, bit for bit.

The twin is a network of two stages. With a delay d the lower one forwards step s once the gradient of step s - d is
back, so its gradients are d - 1 updates late; the upper one has the loss, and is never late.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest
import torch
from torch import Tensor, nn

from dni import ConditionalSyntheticGradient, Every, TrueGradient
from pipeline import partition, prepare, run_simulated
from pipeline.clock import VirtualClock
from pipeline.configuration.run import build_stage, make_feed, make_inbox
from pipeline.randomness.keyed import seeded
from pipeline.stages.stash import StashPolicy
from pipeline.virtual_time.simulator import simulate
from tests.reference import CPU, Problem, assert_bit_equal, initial_model, state, summed_loss_loop

PROBLEM = Problem(num_stages=2, dropout=0.2, steps=14)
Backward: TypeAlias = Callable[[Tensor], None]


def forward_held_with_its_weights(module: nn.Module, x: Tensor, step: int) -> tuple[Tensor, Backward]:
    """PipeDream: the graph and the weights of the forward; the gradient moves the weights of today."""
    before = copy.deepcopy(module)
    seeded(PROBLEM.seed, "forward/0", step, device=CPU)
    h = before(x)
    module.load_state_dict(dict(before.named_buffers()), strict=False)  # the running statistics have moved

    def backward(gradient: Tensor) -> None:
        h.backward(gradient)
        for own, old in zip(module.parameters(), before.parameters(), strict=True):
            own.grad = old.grad

    return h.detach(), backward


def forward_to_be_recomputed(module: nn.Module, x: Tensor, step: int) -> tuple[Tensor, Backward]:
    """Features Replay: the input only; the backward is of the weights of today, with the same dropout."""
    seeded(PROBLEM.seed, "forward/0", step, device=CPU)
    with torch.no_grad():
        h = module(x)

    def backward(gradient: Tensor) -> None:
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        seeded(PROBLEM.seed, "forward/0", step, device=CPU)
        module(x).backward(gradient)
        module.load_state_dict(buffers, strict=False)

    return h, backward


TWINS = {"weights": forward_held_with_its_weights, "recompute": forward_to_be_recomputed}


def late_loop(stash: str, *, delay: int) -> dict[str, Tensor]:
    """Two stages, the lower one `delay` - 1 updates late."""
    model = initial_model(PROBLEM).train()
    lower, upper = PROBLEM.cut(model).stages
    lower_optimizer, upper_optimizer = (PROBLEM.make_optimizer(stage.parameters()) for stage in (lower, upper))
    loss = nn.CrossEntropyLoss(reduction="sum")
    waiting: list[tuple[Backward, Tensor, int]] = []

    def pull_back() -> None:
        backward, gradient, samples = waiting.pop(0)
        backward(gradient)
        apply(lower, lower_optimizer, samples)

    for step, (x, target) in zip(range(PROBLEM.steps), PROBLEM.batches().start(0), strict=False):
        h, backward = TWINS[stash](lower, x, step)
        h = h.detach().requires_grad_()
        seeded(PROBLEM.seed, "forward/1", step, device=CPU)
        loss(upper(h), target).backward()
        apply(upper, upper_optimizer, len(x))
        assert h.grad is not None
        waiting.append((backward, h.grad, len(x)))
        if len(waiting) == delay:
            pull_back()
    while waiting:
        pull_back()
    return state(model)


def apply(module: nn.Module, optimizer: torch.optim.Optimizer, samples: int) -> None:
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(samples)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("stash", ["weights", "recompute"])
@pytest.mark.parametrize("delay", [2, 4])
def test_late_gradients_equal_the_twin(stash: StashPolicy, delay: int) -> None:
    run = run_simulated(prepare(PROBLEM.config(TrueGradient(), stash=stash, delay=(delay,))))
    assert_bit_equal(run.export(), late_loop(stash, delay=delay))
    assert run.summary["stages"][0]["staleness_max"] == delay - 1


@pytest.mark.parametrize("stash", ["weights", "recompute", "graph"])
def test_gradients_that_are_not_late_equal_the_plain_loop_whatever_is_kept(stash: StashPolicy) -> None:
    problem = Problem(num_stages=4, dropout=0.2, steps=12)
    run = run_simulated(prepare(problem.config(TrueGradient(), stash=stash, delay=(1,))))
    assert_bit_equal(run.export(), summed_loss_loop(problem))


def test_what_is_kept_makes_different_gradients() -> None:
    exports = [
        run_simulated(prepare(PROBLEM.config(TrueGradient(), stash=stash, delay=(3,)))).export()
        for stash in ("hold", "weights", "recompute")
    ]
    weights = [export["0.0.weight"] for export in exports]
    assert not any(torch.equal(a, b) for a, b in ((weights[0], weights[1]), (weights[1], weights[2])))


@pytest.mark.parametrize("stash", ["hold", "weights", "recompute", "graph"])
def test_running_statistics_move_once_a_microbatch(stash: StashPolicy) -> None:
    run = run_simulated(prepare(PROBLEM.config(TrueGradient(), stash=stash, delay=(3,))))
    counts = {name: value for name, value in run.export().items() if name.endswith("num_batches_tracked")}
    assert len(counts) == 4 and all(value == PROBLEM.steps for value in counts.values())


@pytest.mark.parametrize("stash", ["weights", "recompute"])
def test_sync_step_does_not_stop_a_stage_that_keeps_more_and_its_late_gradient_is_not_called_exact(
    stash: StashPolicy,
) -> None:
    problem = Problem(num_stages=3, steps=12)
    prepared = prepare(
        problem.config(ConditionalSyntheticGradient(num_classes=10), sync=Every(4), stash=stash, delay=(3,))
    )
    clock = VirtualClock(prepared.config.costs.operation_s)
    stages = [build_stage(prepared, index, clock=clock) for index in range(3)]
    exact: dict[int, bool] = {}
    answer = stages[1]._outbox.answer

    def noted(step: int, value: object, **how: bool) -> object:
        exact[step] = how["exact"]
        return answer(step, value, **how)  # type: ignore[arg-type]

    order: list[str] = []
    stages[0].recorder.write_order(order.append)
    stages[1]._outbox.answer = noted  # type: ignore[assignment]
    simulate(
        stages,
        make_feed(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(3)],
        clock=clock,
        costs=prepared.config.costs,
        on_drained=lambda stage, drain: None,
    )
    assert order.index("A4") < order.index("G3"), "step 4 was taken while the sync step 3 was out"
    syncs = [event.step for event in stages[1].recorder.take_events() if event.operation == "S"]
    assert {step: exact[step] for step in syncs} == {3: False, 7: False, 11: True}  # nothing comes after step 11


def test_gradient_that_is_staler_than_allowed_is_dropped_or_waited_for() -> None:
    settings = {"stash": "weights", "delay": (4,), "max_staleness": 1}
    waited = run_simulated(prepare(PROBLEM.config(TrueGradient(), **settings)))
    assert waited.summary["stages"][0]["staleness_max"] == 1
    assert_bit_equal(waited.export(), late_loop("weights", delay=2))
    dropped = run_simulated(prepare(PROBLEM.config(TrueGradient(), at_max_staleness="drop", **settings)))
    first = dropped.summary["stages"][0]
    assert first["staleness_max"] <= 1 and first["too_stale"] > 0
    assert first["backwards"] + first["too_stale"] == PROBLEM.steps


def test_tied_weights_share_one_copy_and_one_gradient() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = nn.Linear(64, 64)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.b(torch.relu(self.a(x))))

    def export(stash: StashPolicy) -> dict[str, Tensor]:
        problem = Problem(steps=6)
        config = problem.config(TrueGradient(), stash=stash, delay=(1,))
        config = replace(config, model=lambda: partition(nn.Sequential(Tied(), nn.Linear(64, 10)), at=["1"]))
        return run_simulated(prepare(config)).export()

    assert_bit_equal(export("weights"), export("hold"))
    assert_bit_equal(export("recompute"), export("hold"))
