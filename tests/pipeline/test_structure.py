"""Does a network whose structure changes while it trains equal one that was changed by hand, in every executor?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    At,
    Bernoulli,
    ConditionalSyntheticGradient,
    Count,
    Electroshock,
    Event,
    EverySteps,
    Grow,
    LinearRamp,
    LocalLoss,
    PruneUnits,
    PruneWeights,
    Recycle,
    ReDo,
    ResetLayers,
    Rewire,
    RigL,
    Share,
    Shock,
    TrueGradient,
    Widen,
)
from pipeline import prepare, run_simulated
from pipeline.randomness.keyed import seeded
from tests.executors import EXECUTORS, Case, each_executor
from tests.reference import CPU, Problem, assert_bit_equal, initial_model, state
from tests.spawn import Ranks

PRUNED_AT = 6


def pruned_by_hand(problem: Problem, count: int) -> dict[str, Tensor]:
    """Plain PyTorch: after the update of a step, cut the units with the smallest weights out of layer 0.0."""
    model = initial_model(problem).train()
    optimizer = problem.make_optimizer(model.parameters())
    loss = nn.CrossEntropyLoss(reduction="sum")
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        h = x
        for index, stage in enumerate(problem.cut(model).stages):
            seeded(problem.seed, f"forward/{index}", step, device=CPU)
            h = stage(h)
        loss(h, target).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(len(x))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step == PRUNED_AT:
            model, optimizer = _cut_out(problem, model, optimizer, count)
    return state(model)


def _cut_out(
    problem: Problem, model: nn.Sequential, optimizer: torch.optim.Optimizer, count: int
) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """Another model and another optimiser, built as the first ones were, with what is left put into them."""
    weight = model[0][0].weight.detach()
    kept = sorted(weight.norm(dim=1).argsort()[count:].tolist())
    rows = [name for name, _ in model[0].named_parameters(prefix="0")]
    rows += [name for name, _ in model[0].named_buffers(prefix="0")]
    smaller = initial_model(problem).train()
    smaller[0][0] = nn.Linear(64, len(kept))
    if problem.batch_norm:
        smaller[0][1] = nn.BatchNorm1d(len(kept))
    smaller[1][0] = nn.Linear(len(kept), 32)

    def cut(name: str, value: Tensor) -> Tensor:
        if value.dim() == 0:
            return value
        return value[kept] if name in rows else value[:, kept] if name == "1.0.weight" else value

    smaller.load_state_dict({name: cut(name, value) for name, value in model.state_dict().items()})
    again = problem.make_optimizer(smaller.parameters())
    names = [name for name, _ in model.named_parameters()]
    held = optimizer.state_dict()
    held["state"] = {
        place: {key: cut(names[place], value) for key, value in own.items()} for place, own in held["state"].items()
    }
    again.load_state_dict(held)
    return smaller, again


PROBLEMS = {
    "SGD, across a boundary": Problem(num_stages=4, batch_norm=False),
    "Adam, BatchNorm, across a boundary": Problem(num_stages=3, optimizer="adam"),
    "Adam, within the only stage": Problem(num_stages=1, optimizer="adam"),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_pruned_run_equals_a_loop_that_is_pruned_by_hand(executor: str, name: str, ranks: Ranks) -> None:
    problem = PROBLEMS[name]
    if EXECUTORS[executor].num_processes > problem.num_stages:
        pytest.skip("a stage lives on one rank")
    event = Event(At(PRUNED_AT), PruneUnits(layers=("0.0",), amount=Count(7)))
    found = EXECUTORS[executor].run(Case(problem=problem, settings={"events": (event,)}), ranks)
    assert found.weights["0.0.weight"].shape == (17, 64)
    assert_bit_equal(found.weights, pruned_by_hand(problem, 7))


MANY = (
    Event(At(3), PruneUnits(layers=("0.0",), amount=Share(0.25))),
    Event(At(5), Widen(layers=("1.0",), amount=Count(4), noise=0.1)),
    Event(At(6), Grow(layers=("0.0", "2.0"), amount=Count(3), alpha=1.0, ramp=LinearRamp(num_steps=6))),
    Event(At(8), PruneUnits(layers=("2.0", "3.0"), amount=Count(2), by="activity"), name="prune silent"),
    Event(At(9), Recycle(layers=("1.0",), rule=ReDo(threshold=0.3))),
    Event(At(10), PruneUnits(layers=("1.0",), amount=Count(5), by="taylor"), name="prune taylor"),
    Event(EverySteps(5, first=7), Rewire(rule=RigL(until=20), layers=("3", "4"), sparsity=0.5)),
    Event(At(12), PruneWeights(layers=("0.0",), amount=Share(0.3), by="movement")),
    Event(At(14), Shock(shock=Electroshock(size=0.1), layers=("2.0",))),
    Event(At(16), ResetLayers(layers=("3.0",))),
    Event(At(17), Grow(layers=("0.0",), amount=Count(2)), name="grow at the end"),
)
"""Ten kinds of events and more, on every boundary and within stages."""


WAYS: dict[str, dict[str, Any]] = {
    "synthetic gradients": {"source": ConditionalSyntheticGradient(num_classes=10), "delay": (3,)},
    "true gradients": {},
    "recomputed": {"stash": "recompute", "delay": (3,)},
    "stashed weights": {"stash": "weights", "delay": (3,)},
    "syncs, cadences, local losses": {
        "source": (ConditionalSyntheticGradient(num_classes=10), TrueGradient(), LocalLoss(num_classes=10)),
        "sync": Bernoulli(0.3),
        "cadence": (1, 2, 1, 3),
        "update_probability": (1.0, 0.7, 1.0, 1.0),
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("executor", each_executor("threads", "4 ranks"))
def test_many_events_give_the_network_that_was_simulated(executor: str, way: str, ranks: Ranks) -> None:
    problem = Problem(num_stages=4, optimizer="adam")
    settings = {**WAYS[way], "events": MANY}
    expected = run_simulated(prepare(problem.config(**settings)))
    assert expected.export()["1.0.weight"].shape == (31, 23)
    found = EXECUTORS[executor].run(Case(problem=problem, settings=settings), ranks)
    assert_bit_equal(found.weights, expected.export())
    assert all(stage["forwards"] == problem.steps for stage in found.summary["stages"])
