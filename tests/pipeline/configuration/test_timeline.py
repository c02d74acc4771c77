"""Do events come out on copies as in the run, and is what cannot be done refused there, with nothing touched?"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from dni import (
    At,
    AtRandom,
    Attach,
    Component,
    ConditionalSyntheticGradient,
    Count,
    Electroshock,
    Event,
    EverySteps,
    Grow,
    Insertion,
    LinearRamp,
    OnPlateau,
    PruneUnits,
    PruneWeights,
    Share,
    Shock,
    SyntheticInput,
    Widen,
)
from pipeline import Config, ConfigurationError, Data, KeyedBatches, partition, prepare, run_simulated
from pipeline.configuration.timeline import foreseen_steps
from pipeline.learners.flops import forward_flops
from tests.reference import assert_bit_equal, state

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(40) % 3
PRUNE = PruneUnits(layers=("0",), amount=Count(1))


def network(norm: nn.Module | None = None) -> nn.Sequential:
    """Three stages of two, or with a norm that reads the first boundary, three layers; with statistics and dropout."""
    layers: list[nn.Module] = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()]
    layers += [norm or nn.Identity(), nn.Linear(8, 8), nn.Dropout(0.3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def config(*events: Event, norm: nn.Module | None = None, **settings: Any) -> Config:
    own: dict[str, Any] = {"steps": 20, "source": ConditionalSyntheticGradient(3), "log_every": 1} | settings
    return Config(
        model=lambda: partition(network(norm), at=["3", "7"]),
        data=lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8)),
        loss=nn.CrossEntropyLoss(),
        events=events,
        **own,
    )


def refused(*events: Event, **settings: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        prepare(config(*events, **settings))
    return str(error.value)


SIZED = (
    Event(EverySteps(5), PRUNE),
    Event(At(6), Grow(layers=("0", "4"), amount=Count(3), alpha=1.0, ramp=LinearRamp(num_steps=3))),
    Event(At(7, 9), Widen(layers=("4", "7"), amount=Share(0.5))),
    Event(At(9), Attach(edit=Component(layer="7", units=2)), name="beside"),
    Event(At(10), Attach(edit=Insertion(behind="2", units=9)), name="behind"),
    Event(At(12), PruneWeights(amount=Share(0.5))),
)


def test_rehearsal_touches_neither_the_model_nor_statistics_nor_sources_nor_generators() -> None:
    inputs, source = SyntheticInput(), ConditionalSyntheticGradient(3)
    plain = prepare(config(inputs=inputs, source=source))
    torch.manual_seed(5)
    drawn = torch.get_rng_state()
    made = prepare(
        config(
            *SIZED,
            Event(OnPlateau(patience=2), PruneUnits(layers=("7",), amount=Count(1)), name="late"),
            inputs=inputs,
            source=source,
        )
    )
    assert torch.equal(torch.get_rng_state(), drawn)
    assert len(made.changes) > 8
    for own, other in zip(made.cut.stages, plain.cut.stages, strict=True):
        assert_bit_equal(state(own), state(other))
        assert not any(parameter.grad is not None for parameter in own.parameters())
        assert not any(each._forward_pre_hooks or each._forward_hooks for each in own.modules())
        assert all(each.training for each in own.modules())
    assert [type(own) for own in made.sources] == [type(own) for own in plain.sources]
    assert not any(getattr(own, "built", False) for own in made.sources)
    following = [next(prepared.train.start(0))[0] for prepared in (made, plain) if prepared.train is not None]
    assert torch.equal(*following)


def _lived(folder: Path) -> list[tuple[int, int, str]]:
    """(step, stage, what) of all changes of a run that events of the stage itself have made."""
    lines = [json.loads(line) for path in folder.glob("events/*.jsonl") for line in path.read_text().splitlines()]
    return sorted((line["step"], line["stage"], line["change"]) for line in lines)


def _parameters(folder: Path, stage: int, step: int) -> int:
    """As the run has measured it, last at this step or before."""
    lines = (json.loads(line) for line in (folder / "metrics" / f"stage-{stage}.jsonl").read_text().splitlines())
    known = {line["step"]: line["structure/parameters"] for line in lines if "structure/parameters" in line}
    return int(known[max(at for at in known if at <= step)])


def test_what_is_foretold_is_what_the_run_does_with_the_same_sizes(tmp_path: Path) -> None:
    prepared = prepare(config(*SIZED))
    told = sorted((change.step or 0, change.stage, change.what) for change in prepared.changes)
    with patch("pipeline.records.board.EventFileWriter"), patch("os.fsync"):
        run_simulated(prepared, folder=tmp_path)
    assert told == _lived(tmp_path)
    for change in prepared.changes:
        assert change.step is not None
        assert change.parameters[1] == _parameters(tmp_path, change.stage, change.step), change
    by_stage = [[change for change in prepared.changes if change.stage == index] for index in range(3)]
    for index, changes in enumerate(by_stage):
        for earlier, later in pairwise(changes):  # those of one step are told together
            assert later.step == earlier.step or (later.parameters[0], later.flops[0]) == (
                earlier.parameters[1],
                earlier.flops[1],
            )
        module = prepared.cut.stages[index]
        assert changes[-1].parameters[1] == sum(p.numel() for p in module.parameters())
    first, last = prepared.cut.stages[0], prepared.cut.stages[2]
    assert by_stage[0][-1].flops[1] == forward_flops(first, X[:4])
    assert by_stage[2][-1].flops[1] == forward_flops(last, torch.randn(4, last[0].in_features))


def test_event_that_changes_no_shape_is_tried_out_once_and_one_that_does_each_time() -> None:
    events = (
        Event(EverySteps(3), Shock(shock=Electroshock(size=0.1))),
        Event(EverySteps(6), PRUNE),
        Event(AtRandom(0.4), PruneWeights(layers=("7",), amount=Share(0.1))),
    )
    changes = prepare(config(*events)).changes
    steps = foreseen_steps(events, steps=20, steps_per_epoch=None, seed=0)
    assert steps[0] == [2, 5, 8, 11, 14, 17] and steps[1] == [5, 11, 17] and len(steps[2]) > 3
    seen = {
        name: sorted({change.step for change in changes if change.what.startswith(name) and change.step is not None})
        for name in ("shock", "prune units", "prune weights")
    }
    assert seen["prune units"] == [5, 11, 17]
    assert seen["shock"][0] == 2 and set(seen["shock"]) <= {2, 5, 11, 17}, "alone only once; else beside others"
    assert seen["prune weights"][0] == steps[2][0]


def test_only_so_many_steps_with_events_are_tried_out() -> None:
    with patch("pipeline.configuration.timeline.MOST_REHEARSED", 2):
        changes = prepare(config(Event(EverySteps(2), Grow(layers=("7",), amount=Count(1))))).changes
    assert [change.step for change in changes] == [1, 3]


def test_event_on_a_plateau_is_shown_without_a_step_after_the_others() -> None:
    late = Event(OnPlateau(patience=3), PruneUnits(layers=("0",), amount=Share(0.5)), name="when it stalls")
    changes = prepare(config(late, Event(At(4), PRUNE))).changes
    assert [(change.step, change.stage) for change in changes] == [(4, 0), (4, 1), (None, 0), (None, 1)]
    assert changes[2].what == "when it stalls: prune 4 of 7 units of 0 (magnitude)"
    assert changes[2].parameters == (7 * 7 + 14, 3 * 7 + 6) and changes[2].flops == (7 * 12, 3 * 12)
    assert changes[3].what == "when it stalls: follows stage 0"


def test_two_events_of_one_name_are_refused_and_told_what_to_do() -> None:
    text = refused(Event(At(3), PRUNE, name="cut"), Event(At(5), Grow(layers=("0",), amount=Count(1)), name="cut"))
    assert "'cut' is the name of 2 events" in text and "name=" in text


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (
            Insertion(behind="2", units=7),
            "'odd' at step 3 cannot be carried out in stage 0: the stage cannot run any more",
        ),
        (Component(layer="0", units=2, kernel=(3,)), "event 'odd': the kernel of a component"),
        (Insertion(behind="5", units=8), "'odd' at step 3 cannot be carried out in stage 1"),
        (Component(layer="11", units=2), "event 'odd': there is no layer '11'"),
    ],
    ids=["of another width", "of another kind", "behind what is no activation", "nowhere"],
)
def test_part_that_does_not_fit_is_refused_by_the_event(edit: Component | Insertion, what: str) -> None:
    text = refused(Event(At(3), Attach(edit=edit), name="odd"))
    assert "odd" in text and what in text


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8)], ids=["LayerNorm", "GroupNorm"])
def test_growth_below_a_norm_over_the_units_in_the_stage_above_is_refused(norm: nn.Module) -> None:
    """In the first version of issue 6 it was carried out, and changed what every other unit told the stage above."""
    both = (Grow(layers=("0",), amount=Count(2)), Widen(layers=("0",), amount=Count(2)))
    for action in both:
        text = refused(Event(At(3), action, name="wider"), norm=norm)
        assert "'wider' at step 3 cannot be carried out in stage 1" in text and "statistics over units" in text
    pruned = Event(At(3), PruneUnits(layers=("0",), amount=Count(2)))
    if isinstance(norm, nn.LayerNorm):
        assert len(prepare(config(pruned, norm=norm)).changes) == 2


def test_reason_that_one_event_gives_is_not_blamed_on_another() -> None:
    events = (
        Event(At(2), Shock(shock=Electroshock(size=0.1)), name="harmless"),
        Event(At(4), PruneUnits(layers=("7",), amount=Count(9)), name="too much"),
    )
    text = refused(*events)
    assert "'too much' at step 4 cannot be carried out in stage 2" in text and "harmless" not in text


def test_run_without_events_is_not_rehearsed() -> None:
    with patch("pipeline.configuration.timeline._Rehearsal", side_effect=AssertionError):
        assert prepare(config()).changes == ()
