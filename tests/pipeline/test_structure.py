"""Does a network whose structure changes while it trains equal one that was changed by hand, in every executor?"""

from __future__ import annotations

import copy
import os
import shutil
import signal
import traceback
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dni import (
    SET,
    At,
    AtRandom,
    Attach,
    Bernoulli,
    Component,
    ConditionalSyntheticGradient,
    Count,
    Electroshock,
    EpochEnds,
    Event,
    EverySteps,
    Grow,
    Insertion,
    LinearRamp,
    LocalLoss,
    MixedGradient,
    Never,
    OnPlateau,
    PruneUnits,
    PruneWeights,
    Recycle,
    ReDo,
    ResetLayers,
    Rewire,
    RigL,
    Share,
    Shock,
    SyntheticGradient,
    TopOrAll,
    TrueGradient,
    Widen,
)
from pipeline import (
    Adam,
    Config,
    ConfigurationError,
    Data,
    KeyedBatches,
    Replay,
    Sgd,
    StageFailure,
    StructureError,
    partition,
    prepare,
    run_simulated,
)
from pipeline.clock import WallClock
from pipeline.configuration.run import build_stage
from pipeline.executors.threaded import run_threaded
from pipeline.learners.updater import Updater
from pipeline.messages import Activation
from pipeline.randomness.keyed import seeded
from tests.executors import EXECUTORS, Case, each_executor, run_share
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


@cache
def plain_loop(name: str) -> dict[str, Tensor]:
    return pruned_by_hand(PROBLEMS[name], 7)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_pruned_run_equals_a_loop_that_is_pruned_by_hand(executor: str, name: str, ranks: Ranks) -> None:
    problem = PROBLEMS[name]
    if EXECUTORS[executor].num_processes > problem.num_stages:
        pytest.skip("a stage lives on one rank")
    event = Event(At(PRUNED_AT), PruneUnits(layers=("0.0",), amount=Count(7)))
    found = EXECUTORS[executor].run(Case(problem=problem, settings={"events": (event,)}), ranks)
    assert found.weights["0.0.weight"].shape == (17, 64)
    assert_bit_equal(found.weights, plain_loop(name))


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
    Event(At(15), Attach(edit=Insertion(behind="2.2", units=25)), name="insert"),
    Event(At(16), Attach(edit=Component(layer="1.0", units=3, alpha=1.0), ramp=LinearRamp(num_steps=3))),
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


@cache
def simulated(way: str) -> dict[str, Tensor]:
    problem = Problem(num_stages=4, optimizer="adam")
    return run_simulated(prepare(problem.config(**WAYS[way], events=MANY))).export()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("executor", each_executor("threads", "4 ranks"))
def test_many_events_give_the_network_that_was_simulated(executor: str, way: str, ranks: Ranks) -> None:
    problem = Problem(num_stages=4, optimizer="adam")
    settings = {**WAYS[way], "events": MANY}
    expected = simulated(way)
    assert expected["1.0.weight"].shape == (31, 23)
    found = EXECUTORS[executor].run(Case(problem=problem, settings=settings), ranks)
    assert_bit_equal(found.weights, expected)
    assert all(stage["forwards"] == problem.steps for stage in found.summary["stages"])


# Killed and resumed


@dataclass(frozen=True, kw_only=True)
class _Dies(PruneUnits):
    """Cuts units out; when it is meant, and not tried out on copies before the run, something happens."""

    fault: str

    def plan(self, view: Any, *, step: int, keyed: Any) -> Any:
        plan = super().plan(view, step=step, keyed=keyed)
        if any(Path(frame.filename).name == "timeline.py" for frame in traceback.extract_stack()):
            return plan
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "raise":
            raise ArithmeticError("scripted fault")
        return plan


def killed_case(fault: str | None = None, *, resume: bool = False) -> Case:
    """The many events, and one more in the middle of which the run dies."""
    event = Event(At(11), _Dies(layers=("3.0",), amount=Count(1), fault=fault or "none"), name="deadly")
    settings = {
        "events": (*MANY, event),
        "source": ConditionalSyntheticGradient(num_classes=10),
        "checkpoint_every": 4,
        "sync": Bernoulli(0.3),
    }
    return Case(problem=Problem(num_stages=4, optimizer="adam", steps=24), settings=settings, resume=resume)


@pytest.fixture(scope="module")
def never_killed() -> dict[str, Tensor]:
    return run_simulated(prepare(killed_case().config())).export()


def test_run_that_fails_in_the_middle_of_an_event_and_goes_on_equals_one_that_never_failed(
    tmp_path: Path, never_killed: dict[str, Tensor]
) -> None:
    with pytest.raises(StageFailure, match=r"stage 3 failed at step .* in change of structure: .*'deadly' at step 11"):
        run_simulated(prepare(killed_case("raise").config()), folder=tmp_path)
    resumed = run_simulated(prepare(killed_case().config()), folder=tmp_path, resume=True)
    assert (resumed.summary["resumed_at"], resumed.summary["resume_exact"]) == (8, True)
    assert_bit_equal(resumed.export(), never_killed)


@pytest.mark.distributed
def test_rank_killed_in_the_middle_of_an_event_and_resumed_on_other_ranks_equals_the_run_never_killed(
    mortals: Ranks, ranks: Ranks, tmp_path: Path, never_killed: dict[str, Tensor]
) -> None:
    outcomes = mortals.outcomes(run_share, killed_case("kill"), str(tmp_path), world_size=2)
    assert outcomes[1][1] == "died"
    found = EXECUTORS["4 ranks"].run(killed_case(resume=True), ranks, folder=tmp_path)
    assert found.summary["resumed_at"] == 8
    assert_bit_equal(found.weights, never_killed)


# Any events


X = torch.randn(40, 2, 6, 6, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(40) % 3


def any_network(kind: str, num_stages: int) -> Any:
    """A convolutional network or a perceptron, cut wherever that is possible."""
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 7), nn.BatchNorm1d(7), nn.Tanh()]
    starts = [(), ("3",), ("3", "6")][num_stages - 1]
    layers += [nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)]
    if kind == "convolutions":
        layers = [nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3)]
        starts = [(), ("6",), ("3", "6")][num_stages - 1]
    model = nn.Sequential(*layers)
    return partition(model, at=starts) if starts else partition(model, 1)


HIDDEN = {"perceptron": ("1", "3", "6"), "convolutions": ("0", "3", "7")}


@st.composite
def events_of(draw: st.DrawFn, kind: str) -> tuple[Event, ...]:
    """Some events, each on some layer, at some steps."""
    layer = st.sampled_from(HIDDEN[kind])
    one = st.builds(lambda own: (own,), layer)
    amount = st.builds(Count, st.integers(1, 2))
    by = st.sampled_from(["magnitude", "activity", "taylor", "random"])
    actions = st.one_of(
        st.builds(PruneUnits, layers=one, amount=amount, by=by, floor=st.just(2)),
        st.builds(Grow, layers=one, amount=amount, alpha=st.sampled_from([0.0, 0.5])),
        st.builds(Grow, layers=one, amount=amount, alpha=st.just(1.0), ramp=st.just(LinearRamp(num_steps=4))),
        st.builds(Widen, layers=one, amount=amount, noise=st.sampled_from([0.0, 0.1])),
        st.builds(Recycle, layers=one, rule=st.just(ReDo(threshold=0.5))),
        st.builds(ResetLayers, layers=one),
        st.builds(Shock, shock=st.just(Electroshock(size=0.2))),
        st.builds(PruneWeights, amount=st.builds(Share, st.sampled_from([0.2, 0.5]))),
        st.builds(Rewire, rule=st.sampled_from([SET(), RigL(until=9)]), sparsity=st.just(0.5)),
    )
    schedules = st.one_of(
        st.builds(At, st.integers(0, 8)),
        st.builds(EverySteps, st.integers(3, 5)),
        st.just(EpochEnds()),
        st.builds(AtRandom, st.sampled_from([0.2])),
        st.just(OnPlateau(patience=2, at_most=2)),
    )
    chosen = draw(st.lists(st.tuples(schedules, actions), min_size=1, max_size=4))
    return tuple(Event(when, action, name=f"event {place}") for place, (when, action) in enumerate(chosen))


@st.composite
def any_run(draw: st.DrawFn) -> tuple[str, int, dict[str, Any]]:
    kind, num_stages = draw(st.sampled_from(list(HIDDEN))), draw(st.integers(1, 3))
    sources = [TrueGradient(), SyntheticGradient(), MixedGradient(ConditionalSyntheticGradient(3)), LocalLoss(3)]
    chosen = {
        "source": tuple(draw(st.sampled_from(sources)) for _ in range(num_stages - 1)) or (TrueGradient(),),
        "sync": draw(st.sampled_from([Never(), Bernoulli(0.4)])),
        "cadence": (draw(st.integers(1, 2)),),
        "optimizer": draw(st.sampled_from([Adam(lr=0.01), Sgd(lr=0.05, momentum=0.9, weight_decay=0.01)])),
        "delay": (draw(st.integers(1, 3)),),
        "stash": draw(st.sampled_from(["hold", "recompute", "weights"])),
        "evaluate_every": draw(st.sampled_from([0, 4])),
        "participation": draw(st.sampled_from([None, None, TopOrAll(0.5)])),
        "seed": draw(st.integers(0, 3)),
        "events": draw(events_of(kind)),
    }
    if num_stages == 1 or not any(isinstance(source, TrueGradient | MixedGradient) for source in chosen["source"]):
        chosen["stash"] = "hold"
    return kind, num_stages, chosen


def any_config(run: tuple[str, int, dict[str, Any]], **more: Any) -> Config:
    kind, num_stages, chosen = run
    return Config(
        model=lambda: any_network(kind, num_stages),
        data=lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8), test=[(X, TARGET)]),
        loss=nn.CrossEntropyLoss(),
        steps=12,
        **{**chosen, **more},
    )


@pytest.mark.filterwarnings("ignore:a setting has no effect")
@settings(max_examples=10, deadline=None, derandomize=True)
@given(run=any_run())
def test_any_events_lose_no_step_and_give_one_network_also_in_threads_and_resumed(
    tmp_path_factory: pytest.TempPathFactory, run: tuple[str, int, dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    try:
        prepared = prepare(any_config(run, checkpoint_every=5))
    except ConfigurationError as error:
        if not str(error).startswith("event"):  # what cannot be done is refused by name, before the run
            raise
        return
    with patch("os.fsync"), patch("pipeline.records.board.EventFileWriter"):
        expected = run_simulated(prepared, folder=folder)
        for later in sorted((folder / "checkpoints").iterdir())[1:]:
            shutil.rmtree(later)  # as if it had been killed after the first one
        with patch("pipeline.configuration.run.rehearse_events", return_value=()):  # once is enough, and it takes time
            again, other = (prepare(any_config(run, checkpoint_every=5)) for _ in range(2))
        resumed = run_simulated(again, folder=folder, resume=True)
    threaded = run_threaded(other)
    assert all(stage["forwards"] == 12 for stage in expected.summary["stages"])
    assert resumed.summary["resumed_at"] == 5
    assert_bit_equal(resumed.export(), expected.export())
    assert_bit_equal(threaded.export(), expected.export())


# In ready order, under load, and lived through again


@pytest.mark.parametrize("executor", each_executor("threads", "4 ranks"))
def test_run_under_load_loses_no_step_and_is_replayed_to_the_same_bits(
    executor: str, ranks: Ranks, tmp_path: Path
) -> None:
    problem = Problem(num_stages=4, optimizer="adam", steps=40)
    settings = {
        "events": MANY,
        "source": ConditionalSyntheticGradient(num_classes=10),
        "sync": Bernoulli(0.2),
        "arrival": "ready",
        "queue": ("block", "drop_oldest", "latest"),
        "checkpoint_every": 20,
        "executor": EXECUTORS[executor].name,
    }
    found = EXECUTORS[executor].run(Case(problem=problem, settings=settings), ranks, folder=tmp_path)
    assert found.summary["stages"][0]["forwards"] == problem.steps
    for below, stage in pairwise(found.summary["stages"]):
        assert stage["forwards"] + stage["dropped"] == below["forwards"]
    lived = Replay(prepare(problem.config(**settings)), tmp_path)
    lived.run()
    assert lived.comparison.equal, lived.comparison.lines()


# What cannot be done


def _refused(*events: Event, **settings: Any) -> str:
    with pytest.raises(ConfigurationError) as error:
        prepare(Problem(num_stages=4).config(events=events, **settings))
    return str(error.value)


def test_what_cannot_be_done_is_refused_before_the_start_by_event_layer_and_size() -> None:
    prune = PruneUnits(layers=("0.0",), amount=Share(0.5))
    assert "event 'prune units': there is no layer '9' with parameters" in _refused(
        Event(At(3), PruneUnits(layers=("9",), amount=Share(0.5)))
    )
    assert "event 'prune units'" in (text := _refused(Event(At(22), prune))) and "22" in text
    nothing = _refused(Event(EverySteps(2), PruneUnits(layers=("0.0",), amount=Count(9), floor=1)))
    assert "'prune units' at step 5 cannot be carried out in stage 0" in nothing and "is pruned to nothing" in nothing
    beyond = _refused(Event(EverySteps(4), Grow(layers=("1.0",), amount=Count(8), at_most=40)))
    assert "40 units at most" in beyond and "at_most" in beyond
    output = _refused(Event(At(3), PruneUnits(layers=("4.0",), amount=Count(2))))
    assert "the 10 units of 4.0 are the network's output" in output
    assert "with stash graph" in _refused(Event(At(3), prune), stash="graph")
    assert "is the name of 2 events" in _refused(Event(At(3), prune), Event(At(5), prune))
    assert "events takes Event(when, action)" in _refused(prune)  # type: ignore[arg-type]


def test_units_that_cannot_change_are_refused_by_what_reads_them() -> None:
    def refused(*layers: nn.Module, at: tuple[str, ...] = (), layer: str = "0") -> str:
        config = Problem().config(events=(Event(At(3), PruneUnits(layers=(layer,), amount=Count(1))),))
        with pytest.raises(ConfigurationError) as error:
            prepare(replace(config, model=lambda: partition(nn.Sequential(*layers), None if at else 1, at=at)))
        return str(error.value)

    tied = nn.Linear(64, 64)
    assert "tied" in refused(tied, nn.ReLU(), tied, nn.Linear(64, 10))
    passed = refused(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10), at=("1", "2"))
    assert "the 8 units that the stage below sends pass through this stage" in passed
    grouped = (
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 4, 3),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    assert "groups" in refused(*grouped, layer="1")


def test_event_that_fails_while_it_is_applied_leaves_the_stage_whole() -> None:
    problem = Problem(num_stages=2, optimizer="adam")
    event = Event(At(4), PruneUnits(layers=("0.0", "1.0"), amount=Count(3)))
    stage = build_stage(prepare(problem.config(events=(event,))), 0, clock=WallClock())
    learner = stage.learner
    x, target = next(problem.batches().start(0))
    message = Activation(step=4, h=x, target=target)
    entry = learner.forward(message, learns=True, held=True, sync=False, asks=False, wanted=False)
    entry.gradient = torch.ones_like(entry.h)  # type: ignore[arg-type]
    learner.backward_late(entry)
    learner.update(4)
    before = copy.deepcopy(learner.state_dict())
    original, num_calls = Updater.load_state_dict, 0

    def fails_later(updater: Updater, state: Any) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 2:  # for the second layer, when the first has been cut
            raise MemoryError("scripted fault")
        original(updater, state)

    with patch.object(Updater, "load_state_dict", fails_later), pytest.raises(StructureError, match="is as it was"):
        learner.change_structure(4)
    after = learner.state_dict()
    assert_bit_equal(after["module"], before["module"])
    assert stage.module[0].out_features == 24  # type: ignore[index, union-attr]
    for name, held in before["updater"]["optimizer"].items():
        assert_bit_equal(after["updater"]["optimizer"][name], held)
    (told,) = learner.change_structure(4)  # and then it can be carried out after all
    assert told.generation == 1 and stage.module[0].out_features == 21  # type: ignore[index, union-attr]
