"""Are parameters put back, in a run, to the values that they began with, whatever has become of the network since?"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from dni import (
    At,
    Attach,
    Component,
    ConditionalSyntheticGradient,
    Count,
    Event,
    EverySteps,
    Grow,
    LiftMasks,
    LinearRamp,
    PruneUnits,
    PruneWeights,
    Recycle,
    ReDo,
    ResetActive,
    ResetLayers,
    Share,
    Widen,
)
from pipeline import CheckpointError, prepare, run_simulated
from pipeline.clock import WallClock
from pipeline.configuration.run import build_stage
from pipeline.executors.threaded import run_threaded
from pipeline.randomness.keyed import seeded
from pipeline.records.checkpoint import latest, read_stage
from pipeline.stages.stage_learner import StageLearner
from tests.reference import CPU, Problem, assert_bit_equal, initial_model, state

RESET_AT = (3, 7)


def reset_by_hand(problem: Problem, share: float) -> dict[str, Tensor]:
    """Plain PyTorch: after the update of some steps, the share of all that is farthest from its beginning goes back."""
    model, loss = initial_model(problem).train(), nn.CrossEntropyLoss(reduction="sum")
    began = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = problem.make_optimizer(model.parameters())
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        seeded(problem.seed, "forward/0", step, device=CPU)
        loss(model(x), target).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(len(x))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step in RESET_AT:
            _reset(list(model.parameters()), began, optimizer, share)
    return state(model)


def _reset(parameters: list[nn.Parameter], began: list[Tensor], optimizer: torch.optim.Optimizer, share: float) -> None:
    moved = [(own - first).abs().detach() for own, first in zip(parameters, began, strict=True)]
    every = torch.cat([each.flatten() for each in moved])
    least = every.sort(descending=True).values[round(share * len(every)) - 1]
    assert int((every >= least).sum()) == round(share * len(every)), "no two are equally far"
    with torch.no_grad():
        for own, first, far in zip(parameters, began, moved, strict=True):
            own.copy_(torch.where(far >= least, first, own))
            for slot in optimizer.state[own].values():
                if slot is not None and slot.shape == own.shape:
                    slot.masked_fill_(far >= least, 0.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_run_that_resets_what_is_active_equals_a_loop_that_does_so_by_hand(optimizer: str) -> None:
    problem = Problem(num_stages=1, optimizer=optimizer, steps=12)
    events = tuple(Event(At(step), ResetActive(amount=Share(0.05)), name=f"at {step}") for step in RESET_AT)
    assert_bit_equal(run_simulated(prepare(problem.config(events=events))).export(), reset_by_hand(problem, 0.05))


CHANGES = (
    Event(At(2), PruneUnits(layers=("0.0",), amount=Count(5))),
    Event(At(3), Grow(layers=("1.0",), amount=Count(3), alpha=1.0)),
    Event(At(4), Attach(edit=Component(layer="2.0", units=3, alpha=1.0), ramp=LinearRamp(num_steps=3))),
    Event(At(5), Recycle(layers=("1.0",), rule=ReDo(threshold=0.95))),
    Event(At(6), Widen(layers=("2.0",), amount=Count(2), noise=0.1)),
    Event(At(8), PruneWeights(layers=("3.0", "4.0"), amount=Share(0.4))),
    Event(At(10), ResetLayers(layers=("3.0",))),
    Event(At(14), LiftMasks(layers=("3.0", "4.0"))),
)
RESETS = (
    Event(EverySteps(4, first=3), ResetActive(amount=Share(0.1))),
    Event(EverySteps(5, first=4), ResetActive(amount=Share(0.02), to="fresh", scope="tensor"), name="fresh"),
)
SETTINGS: dict[str, Any] = {
    "source": ConditionalSyntheticGradient(num_classes=10),
    "events": CHANGES + RESETS,
    "checkpoint_every": 9,
}


def test_resets_among_changes_of_structure_are_foreseen_and_the_same_in_threads_and_resumed(tmp_path: Path) -> None:
    problem = Problem(num_stages=3, optimizer="adam")
    prepared = prepare(problem.config(**SETTINGS))
    foreseen = [change for change in prepared.changes if "reset active" in change.what]
    assert {change.stage for change in foreseen} == {0, 1, 2}
    assert all("parameters that have moved farthest" in change.what for change in foreseen)
    with patch("os.fsync"), patch("pipeline.records.board.EventFileWriter"):
        expected = run_simulated(prepared, folder=tmp_path)
        assert [stage["changes"]["reset active"] for stage in expected.summary["stages"]] == [5, 5, 5]
        for later in sorted((tmp_path / "checkpoints").iterdir())[1:]:
            shutil.rmtree(later)  # as if it had been killed after the first one
        with patch("pipeline.configuration.run.rehearse_events", return_value=()):
            again, other = (prepare(problem.config(**SETTINGS)) for _ in range(2))
        resumed = run_simulated(again, folder=tmp_path, resume=True)
    assert resumed.summary["resumed_at"] == 9
    assert_bit_equal(resumed.export(), expected.export())
    assert_bit_equal(run_threaded(other).export(), expected.export())


def test_initial_values_follow_every_change_of_structure(tmp_path: Path) -> None:
    """At a rate of 0 nothing moves, so what is kept must be what is there, whatever has grown, gone or begun anew."""
    problem = Problem(num_stages=3)
    events = tuple(event for event in CHANGES if not isinstance(event.action, Widen))
    events += (Event(At(6), Widen(layers=("2.0",), amount=Count(2))), RESETS[1])
    config = problem.config(events=events, optimizer=partial(torch.optim.SGD, lr=0.0, momentum=0.9))
    with patch("os.fsync"), patch("pipeline.records.board.EventFileWriter"):
        run_simulated(prepare(config), folder=tmp_path)
    path, _ = latest(tmp_path / "checkpoints")
    for index in range(3):
        saved = read_stage(path, index, device=CPU)
        own = {name: value for name, value in saved["module"].items() if name in saved["initial"]}
        assert len(own) >= 4
        assert_bit_equal(saved["initial"], own)
        buffers = ("running_mean", "running_var", "num_batches_tracked", "unit_gate")
        assert all(name.endswith(buffers) for name in saved["module"].keys() - own.keys())


def test_checkpoint_without_initial_values_is_refused_if_an_event_asks_for_them() -> None:
    def learner(*events: Event) -> StageLearner:
        return build_stage(prepare(Problem(num_stages=1).config(events=events)), 0, clock=WallClock()).learner

    plain = learner(CHANGES[-2])
    assert plain.state_dict()["initial"] == {}
    with pytest.raises(
        CheckpointError, match=r"asks for the initial values of 0\.0\.weight, .* but the checkpoint has"
    ):
        learner(RESETS[0]).load_state_dict(plain.state_dict())
    plain.load_state_dict(learner(RESETS[0]).state_dict())
    assert plain.state_dict()["initial"] == {}
