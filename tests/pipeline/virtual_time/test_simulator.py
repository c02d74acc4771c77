"""Does virtual time pass as the cost model says, in an order that is the same every time, and never get stuck?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from dni import (
    Always,
    Bernoulli,
    BlockCadence,
    ByConfidence,
    ByFunction,
    ConditionalSyntheticGradient,
    Critic,
    DirectFeedbackAlignment,
    Every,
    Kickback,
    LocalLoss,
    MixedGradient,
    Never,
    NoGradient,
    Only,
    Periodic,
    Phases,
    RandomCadence,
    ReceivedInput,
    Rows,
    Shadow,
    SobolevCritic,
    Sum,
    SyncPolicy,
    SyntheticGradient,
    SyntheticInput,
    TopOrAll,
    TrueGradient,
)
from pipeline.clock import VirtualClock
from pipeline.configuration.config import Config, Data, Sgd
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, make_feed, make_inbox, prepare
from pipeline.data.feed import KeyedBatches
from pipeline.errors import StageFailure
from pipeline.messages import Activation, Drain, Message, Send, Stop
from pipeline.stages.arrival import Arrival
from pipeline.stages.stage import Stage
from pipeline.stages.trace import Event
from pipeline.virtual_time.costs import CostModel, virtual_clock
from pipeline.virtual_time.simulator import simulate
from pipeline.virtual_time.timed import build_timed_stage
from tests.pipeline.chain import WIDTH, activation, features, labels, linear, play
from tests.pipeline.timed_chain import timed_chain

COSTS = CostModel(forward_s=1.0, backward_s=2.0, learn_s=0.5, update_s=0.25, message_s=0.125)
SOURCES = {
    "true": TrueGradient,
    "synthetic": SyntheticGradient,
    "conditional": lambda: ConditionalSyntheticGradient(WIDTH),
    "none": NoGradient,
    "shadow": lambda: Shadow(SyntheticGradient()),
    "direct feedback": lambda: DirectFeedbackAlignment(WIDTH),
    "mixed": lambda: MixedGradient(Kickback()),
    "critic": lambda: Critic(WIDTH),
    "shadow critic": lambda: Shadow(SobolevCritic(WIDTH), acting=DirectFeedbackAlignment(WIDTH)),
    "local": lambda: LocalLoss(WIDTH),
    "own task": lambda: Sum(LocalLoss(WIDTH), SyntheticGradient()),
    "own task, true": lambda: Sum(LocalLoss(WIDTH), TrueGradient()),
    "own task, asking": lambda: Sum(LocalLoss(WIDTH), DirectFeedbackAlignment(WIDTH)),
}
ASKING = {"direct feedback", "mixed", "critic", "shadow critic", "own task, asking"}
"""Sources to whose stages the last stage has to say what the loss says."""


def _prepared(
    sources: Sequence[str], *, steps: int, bounds: Sequence[int], arrival: Arrival = "fixed", **more: Any
) -> Prepared:
    """A square layer per stage; `bounds` is the delay or the bound of each boundary."""
    num_stages = len(sources) + 1
    x, target = features(0, num_samples=6), labels(0, num_samples=6)
    return prepare(
        Config(
            model=lambda: [linear(index) for index in range(num_stages)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=2), test=[(x[:2], target[:2])]),
            loss=nn.CrossEntropyLoss(),
            source=tuple(SOURCES[name]() for name in sources),
            optimizer=Sgd(lr=0.01),
            steps=steps,
            arrival=arrival,
            delay=tuple(bounds) or (1,),
            max_in_flight=tuple(bounds) or (1,),
            **{"costs": COSTS, **more},
        )
    )


def _chain(prepared: Prepared) -> tuple[list[Stage], VirtualClock]:
    clock = VirtualClock(prepared.config.costs.operation_s)
    return [build_stage(prepared, index, clock=clock) for index in range(prepared.num_stages)], clock


def _play(
    sources: Sequence[str],
    *,
    on_turn: Callable[[Stage], None] = lambda stage: None,
    on_send: Callable[[int, Send], None] = lambda sender, send: None,
    handled: Sequence[list[str]] = (),
    **more: Any,
) -> tuple[float, list[list[Event]], list[Stage]]:
    """The time it took, what each stage did, and the stages; `handled` takes in the order of each one's messages."""
    prepared = _prepared(sources, **more)
    stages, clock = _chain(prepared)
    for stage, own in zip(stages, handled, strict=False):
        stage.recorder.write_order(own.append)
    elapsed_s = simulate(
        stages,
        make_feed(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(prepared.num_stages)],
        clock=clock,
        costs=prepared.config.costs,
        on_drained=lambda stage, drain: None,
        on_turn=on_turn,
        on_send=on_send,
    )
    return elapsed_s, [stage.recorder.take_events() for stage in stages], stages


def _order(events: list[Event]) -> str:
    return " ".join(f"{event.operation}{event.step}" for event in events)


@pytest.mark.parametrize("arrival", ["ready", "fixed"])
def test_same_configuration_gives_the_same_trace_and_the_same_weights(arrival: Arrival) -> None:
    runs = [
        _play(("conditional", "synthetic", "true"), steps=8, bounds=(3, 2, 2), arrival=arrival, sync=Bernoulli(0.3))
        for _ in range(2)
    ]
    (first_s, first, stages), (second_s, second, others) = runs
    assert first_s == second_s and first == second
    for stage, other in zip(stages, others, strict=True):
        torch.testing.assert_close(dict(stage.module.named_parameters()), dict(other.module.named_parameters()))
    assert len({event.operation for events in first for event in events}) == 5


def test_every_message_between_stages_is_told_with_its_sender() -> None:
    sent: list[str] = []
    _play(
        ("direct feedback", "none"),
        steps=1,
        bounds=(1, 1),
        on_send=lambda sender, send: sent.append(f"{sender}-{send.to} {type(send.message).__name__}"),
    )
    up = [f"{sender}-{sender + 1} {name}" for name in ("Activation", "Drain", "Stop") for sender in (0, 1)]
    assert set(sent) == {*up, "2-0 OutputError", "2-1 Gradient", "1-0 Gradient"}


def test_times_add_up_on_two_stages_with_the_true_gradient() -> None:
    elapsed_s, events, _ = _play(("true",), steps=2, bounds=(1,))
    bottom, top = ([(e.operation, e.step, e.start_s, e.end_s) for e in stage] for stage in events)
    assert bottom == [
        ("F", 0, 0.0, 1.0),
        ("B", 0, 4.25, 6.25),  # the upper stage's backward ended at 4.125, and the message took 0.125
        ("U", 0, 6.25, 6.5),
        ("F", 1, 6.5, 7.5),
        ("B", 1, 10.75, 12.75),
        ("U", 1, 12.75, 13.0),
    ]
    assert top == [
        ("F", 0, 1.125, 2.125),
        ("B", 0, 2.125, 4.125),
        ("U", 0, 4.125, 4.375),
        ("F", 1, 7.625, 8.625),
        ("B", 1, 8.625, 10.625),
        ("U", 1, 10.625, 10.875),
    ]
    assert elapsed_s == 13.0 + 3 * 0.125, "one evaluation batch goes up, its answer down, the last drain up"


def test_busy_and_waiting_times_add_up_to_the_whole() -> None:
    elapsed_s, events, stages = _play(("synthetic", "true"), steps=5, bounds=(2, 2))
    for stage, own in zip(stages, events, strict=True):
        totals = stage.recorder.totals
        assert totals.busy_s == pytest.approx(sum(event.end_s - event.start_s for event in own))
        assert totals.busy_s + totals.wait_s == pytest.approx(elapsed_s, abs=2 * COSTS.message_s)


def test_decoupled_stages_work_at_the_same_time() -> None:
    steps = 20
    waiting_s, _, _ = _play(("true",), steps=steps, bounds=(1,))
    decoupled_s, _, _ = _play(("none",), steps=steps, bounds=(steps,))
    busy_s = steps * (COSTS.forward_s + COSTS.backward_s + COSTS.update_s)
    assert decoupled_s == pytest.approx(busy_s + COSTS.forward_s + COSTS.message_s, abs=0.5)
    assert waiting_s > 1.5 * decoupled_s


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_fixed_order_forwards_a_step_right_after_the_gradient_delay_steps_earlier(delay: int) -> None:
    steps = 6
    _, events, _ = _play(("true", "true"), steps=steps, bounds=(delay, 1), cadence=(100,))
    expected = [f"F{s}" for s in range(delay)]
    for step in range(steps):
        expected.append(f"B{step}")
        expected += [f"F{step + delay}"] if step + delay < steps else []
    expected.append(f"U{steps - 1}")
    assert _order(events[0]).split() == expected


def test_fixed_order_does_not_depend_on_the_costs() -> None:
    costs = [COSTS, CostModel(forward_s=9.0, message_s=40.0), CostModel(backward_s=0.0, learn_s=30.0)]
    orders = [
        [_order(own) for own in _play(("conditional", "true"), steps=9, bounds=(3, 2), costs=c, sync=Every(4))[1]]
        for c in costs
    ]
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][0].startswith("F0 B0 U0 F1 B1 U1 F2 B2 U2 L0 F3 S3 L1 L2 B3 L3 U3 F4")


def test_ready_order_depends_on_the_costs() -> None:
    slow = CostModel(forward_s=1.0, message_s=40.0)
    orders = {
        _order(_play(("synthetic",), steps=6, bounds=(4,), arrival="ready", costs=costs)[1][0])
        for costs in (COSTS, slow)
    }
    assert len(orders) == 2


def test_ready_mode_prefers_a_gradient_to_an_activation_that_waits_as_long() -> None:
    costs = CostModel(forward_s=1.0, backward_s=1.0, learn_s=1.0, update_s=0.0, message_s=0.0)
    _, (bottom, *_), _ = _play(("synthetic",), steps=6, bounds=(8,), arrival="ready", costs=costs)
    # The top has its first answer ready at 3 and its second at 5, which is when L0 ends.
    assert _order(bottom).startswith("F0 B0 U0 F1 B1 U1 L0 L1 F2 B2 U2")


@pytest.mark.parametrize(
    ("bounds", "arrival"),
    [((4, 4, 4), "ready"), ((3, 2, 1), "ready"), ((4, 4, 4), "fixed"), ((3, 2, 1), "fixed"), ((1, 4, 2), "fixed")],
)
def test_pipelines_with_a_cadence_of_several_microbatches_do_not_deadlock(
    bounds: tuple[int, ...], arrival: Arrival
) -> None:
    steps = 12
    _, events, stages = _play(("true",) * 3, steps=steps, bounds=bounds, arrival=arrival, cadence=(4,))
    for stage, own in zip(stages, events, strict=True):
        order = _order(own).split()
        assert [o for o in order if o[0] == "U"] == ["U3", "U7", "U11"]
        assert order.index("U3") < order.index("F4"), "the next window is forwarded with the new weights"
        assert stage.recorder.totals.operations["B"] == steps
    if bounds == (3, 2, 1):  # one forward, one backward
        middle = _order(events[1])
        assert middle.startswith("F0 F1 B0 F2 B1 F3 B2 B3 U3")
    if bounds == (4, 4, 4) and arrival == "fixed":  # all forwards first
        assert _order(events[1]).startswith("F0 F1 F2 F3 B0 B1 B2 B3 U3")


@pytest.mark.parametrize(
    ("sources", "bounds", "cadence", "sync"),
    [
        (("true", "true", "true"), (1, 4, 2), (4,), Never()),
        (("true", "true"), (4, 4), (1, 4, 1), Never()),
        (("synthetic", "true"), (4, 4), (1, 4, 1), Every(2)),
        (("none", "true", "synthetic"), (2, 3, 4), (2, 3, 5, 1), Every(3, top=3)),
    ],
    ids=["wider above", "slower above", "sync below", "all"],
)
def test_stage_does_not_wait_for_microbatches_that_wait_for_it(
    sources: tuple[str, ...], bounds: tuple[int, ...], cadence: tuple[int, ...], sync: SyncPolicy
) -> None:
    for arrival in ("fixed", "ready"):
        _, _, stages = _play(sources, steps=9, bounds=bounds, arrival=arrival, cadence=cadence, sync=sync)
        assert [stage.recorder.totals.operations["F"] for stage in stages] == [9] * len(stages)


@pytest.mark.filterwarnings("ignore:a setting has no effect")
def test_stage_on_a_slower_clock_does_not_wait_behind_an_update_that_falls_due_at_a_step_it_does_not_get() -> None:
    """Stage 0 holds step 1, which stage 1 has; its update is due at step 2, which stage 1 does not get."""
    _, events, _ = _play(("true", "true"), steps=9, bounds=(2, 2), cadence=(3, 4, 4), send_every=(2, 1))
    assert _order(events[0]) == "F0 D0 F1 F2 D2 B1 U2 F3 F4 D4 F5 B3 B5 U5 F6 D6 F7 F8 D8 B7 U8"
    assert _order(events[1]) == "F1 B1 F3 F5 B3 B5 F7 B7 U7"


@pytest.mark.parametrize("arrival", ["ready", "fixed"])
def test_bound_holds_at_every_moment(arrival: Arrival) -> None:
    most = [0, 0, 0, 0]

    def look(stage: Stage) -> None:
        most[stage.index] = max(most[stage.index], stage.in_flight)

    costs = CostModel(message_s=9.0)
    sources = ("synthetic", "none", "synthetic")
    _play(sources, steps=15, bounds=(3, 2, 4), arrival=arrival, costs=costs, on_turn=look)
    assert most[:2] == [3, 2] and 1 < most[2] <= 4 and most[3] == 0


def test_sync_step_is_exact_whatever_the_bound() -> None:
    """Nothing of a later step comes between a sync step's forward and its backward."""
    _, events, _ = _play(("synthetic", "conditional"), steps=12, bounds=(4, 4), sync=Every(3), arrival="ready")
    for own in events[:2]:
        order = _order(own).split()
        for step in (2, 5, 8, 11):
            between = order[order.index(f"S{step}") : order.index(f"B{step}")]
            assert all(o[0] in "SL" for o in between), between
            assert f"B{step}" in order


def test_message_on_its_way_does_not_wait_in_a_queue() -> None:
    """Three activations are under way at a time; the stage above is free whenever one arrives, so none is dropped."""
    costs = CostModel(forward_s=1.0, backward_s=2.0, learn_s=0.0, update_s=0.0, message_s=9.0)
    _, _, stages = _play(("synthetic",), steps=12, bounds=(12,), arrival="ready", queue=("latest",), costs=costs)
    assert [stage.recorder.totals.dropped for stage in stages] == [0, 0]


def test_activation_is_dropped_when_the_next_one_arrives_and_not_before() -> None:
    costs = CostModel(forward_s=(0.25, 1.0), backward_s=(0.25, 2.0), learn_s=0.0, update_s=0.0, message_s=0.0)
    _, events, _ = _play(("synthetic",), steps=8, bounds=(8,), arrival="ready", queue=("latest",), costs=costs)
    assert _order([event for event in events[1] if event.operation in "FU"]) == "F0 U0 F6 U6 F7 U7"
    drops = [(event.step, event.start_s) for event in events[1] if event.operation == "D"]
    # Step s arrives at s / 2 + 0.25; the stage is busy with step 0 until 3.25, when step 6 takes the place of step 5.
    assert drops == [(1, 1.25), (2, 1.75), (3, 2.25), (4, 2.75), (5, 3.25)]


def test_long_chain_that_cannot_go_on_describes_its_first_stages_only() -> None:
    chain = timed_chain("true", 30, steps=3)
    clock = virtual_clock(COSTS, num_stages=30)
    stages = [build_timed_stage(chain, index, clock=clock) for index in range(30)]
    with pytest.raises(AssertionError, match=r"no stage can go on: stage 0: .*stage 7: .*; and 22 stages more"):
        play(stages, iter([activation(0)]), clock=clock, costs=COSTS)


def test_failure_in_a_stage_reaches_the_caller() -> None:
    prepared = _prepared(("true",), steps=3, bounds=(1,))
    stages, clock = _chain(prepared)
    stages[1].module[0] = nn.Linear(WIDTH + 1, WIDTH)
    with pytest.raises(StageFailure, match="stage 1 failed at step 0 in forward: RuntimeError"):
        play(stages, make_feed(prepared).messages(), clock=clock, costs=COSTS)


def test_chain_that_cannot_go_on_says_where_every_stage_stands() -> None:
    stages, clock = _chain(_prepared(("true",), steps=3, bounds=(1,)))
    with pytest.raises(AssertionError, match=r"no stage can go on: .*stage 0: in flight 0, accepts True"):
        play(stages, iter([]), clock=clock, costs=COSTS)


SYNCS = st.one_of(
    st.just(Never()),
    st.just(Always()),
    st.builds(Every, st.integers(1, 4), top=st.none() | st.integers(0, 4)),
    st.builds(Bernoulli, st.sampled_from([0.3, 0.7]), top=st.none() | st.integers(0, 4), otherwise=st.integers(0, 3)),
)


ORDERS = [
    {"arrival": "fixed"},
    {"arrival": "fixed", "prefer": "activations"},
    {"arrival": "ready"},
    {"arrival": "ready", "prefer": "activations"},
    {"arrival": "ready", "queue": ("latest",)},
    {"arrival": "ready", "queue": ("drop_oldest",), "queue_size": (2,), "prefer": "activations"},
]


UNFORESEEN = [ByConfidence(warmup=1, longest=4), ByFunction(lambda step, window: window.num_steps >= 3)]
FORESEEN = [Periodic(2), Periodic(4), RandomCadence(0.9), Phases((2,), (Periodic(1), ByConfidence(warmup=1)))]


SPARSE = [TopOrAll(0.5, unit="stages"), TopOrAll(0.5, rescale="elapsed"), Only(stages=(0,)), TopOrAll(0.0)]


@st.composite
def _runs(draw: st.DrawFn) -> dict[str, Any]:
    num_stages = draw(st.integers(1, 4))
    per_boundary = {"min_size": num_stages - 1, "max_size": num_stages - 1}
    per_stage = {"min_size": num_stages, "max_size": num_stages}
    order = draw(st.sampled_from(ORDERS))
    send_every = tuple(draw(st.lists(st.sampled_from([1, 1, 1, 2, 3]), **per_boundary))) or (1,)
    imagines = "queue" not in order and set(send_every) == {1}
    inputs = [ReceivedInput(), SyntheticInput()] if imagines else [ReceivedInput()]
    steps = draw(st.integers(1, 9))
    reaches_top = math.prod(send_every) <= steps  # else a block there would be refused: it gets no step
    cadences = [*UNFORESEEN, *(FORESEEN if steps > 3 and max(send_every) == 1 else [])]
    blocks = [BlockCadence(Rows(f"{index}.weight"), draw(st.sampled_from(cadences))) for index in range(num_stages)]
    return {
        "sources": draw(st.lists(st.sampled_from(sorted(SOURCES)), **per_boundary)),
        "bounds": draw(st.lists(st.integers(1, 5), **per_boundary)),
        "send_every": send_every,
        "cadence": tuple(draw(st.lists(st.integers(1, 4), **per_stage))),
        "update_probability": tuple(draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0]), **per_stage))),
        "sync": draw(SYNCS),
        **order,
        "inputs": tuple(draw(st.lists(st.sampled_from(inputs), **per_boundary))) or ReceivedInput(),
        "stash": draw(st.sampled_from(["hold", "hold", "recompute", "weights", "graph"])),
        "max_staleness": draw(st.sampled_from([None, None, 1, 2] if max(send_every) == 1 else [None, 3, 7])),
        "at_max_staleness": draw(st.sampled_from(["wait", "drop"])),
        "steps": steps,
        "blocks": tuple(draw(st.lists(st.sampled_from(blocks), unique_by=id, max_size=2 * reaches_top))),
        "participation": draw(st.sampled_from([None, None, *SPARSE, Only(stages=(num_stages // 2,))])),
        "evaluate_every": draw(st.integers(0, 3)),
        "checkpoint_every": draw(st.integers(0, 3)),
        "costs": draw(st.sampled_from([COSTS, CostModel(message_s=5.0), CostModel(forward_s=0.0, backward_s=0.0)])),
        "seed": draw(st.integers(0, 3)),
    }


@pytest.mark.filterwarnings("ignore:a setting has no effect")
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(_runs())
def test_no_combination_of_settings_deadlocks_and_every_stage_handles_every_step(run: dict[str, Any]) -> None:
    handled: list[list[str]] = [[] for _ in range(len(run["sources"]) + 1)]
    _, events, stages = _play(**run, handled=handled)
    came_up = _steps(handled[-1], "A")
    for source, messages in zip(run["sources"], handled, strict=False):
        assert _steps(messages, "O") == (came_up if source in ASKING else []), "each is told once of all that came up"
    sent_on, every = list(range(run["steps"])), 1
    for stage, own, messages, next_every in zip(stages, events, handled, [*run["send_every"], 1], strict=False):
        assert sorted(_steps(messages, "AX")) == sent_on, "what came up was forwarded or dropped, once"
        forwarded = _steps(messages, "A")
        assert forwarded == sorted(forwarded)
        assert [event.step for event in own if event.operation == "F"] == forwarded
        ended = sorted(event.step for event in own if event.operation in "BD")
        assert ended == sent_on, "every step is learned from or dropped, once"
        assert stage.recorder.totals.dropped == len(sent_on) - len(forwarded)
        assert stage.finished and stage.learner.updater.num_samples == 0
        worked = [event for event in own if event.operation != "D"]  # a queue drops while its stage works
        assert all(a.end_s <= b.start_s for a, b in pairwise(worked))
        every *= next_every
        sent_on = [step for step in forwarded if (step + 1) % every == 0]


@pytest.mark.parametrize("arrival", ["fixed", "ready"])
def test_stage_hears_of_errors_in_order_though_the_last_stage_defers_some_and_skips_others(arrival: Arrival) -> None:
    handled: list[list[str]] = [[], []]
    _, (own, top), _ = _play(
        ("direct feedback",),
        steps=8,
        bounds=(4,),
        cadence=(4,),
        arrival=arrival,
        prefer="activations",
        update_probability=(1.0, 0.5),
        costs=CostModel(forward_s=(0.1, 1.0), message_s=0.0),
        handled=handled,
    )
    assert _order(top).startswith("F0 F1 D1 F2 D2 F3 B0 B3 U3"), "steps 1 and 2 are known to be skipped before step 0"
    assert _steps(handled[0], "O") == list(range(8))
    assert [event.step for event in own if event.operation == "B"] == [e.step for e in top if e.operation == "B"]


def test_stage_that_waits_for_an_error_hears_of_a_step_that_was_dropped_far_above_it() -> None:
    """Nor may it be the newest, behind a sync that may not be dropped: nobody would come after it to tell of it."""
    handled: list[list[str]] = [[] for _ in range(4)]
    _, (own, *_), _ = _play(
        ("direct feedback", "synthetic", "synthetic"),
        steps=9,
        bounds=(4, 4, 4),
        cadence=(3, 1, 1, 1),
        arrival="ready",
        sync=Every(2, top=2),
        queue=("block", "latest", "block"),
        costs=CostModel(forward_s=(0.1, 0.1, 2.0, 0.1), backward_s=0.1, learn_s=0.0, update_s=0.0, message_s=0.0),
        handled=handled,
    )
    assert _steps(handled[2], "X") == [4] and _steps(handled[0], "O") == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [event.step for event in own if event.operation == "D"] == [4]


def _steps(messages: Sequence[str], kinds: str) -> list[int]:
    """Steps of the messages of these kinds, in the order they were handled."""
    return [int(message[1:]) for message in messages if message[0] in kinds]


def test_messages_of_a_boundary_stay_in_order() -> None:
    """A drain waits behind the activations before it, not in front of them."""
    stages, clock = _chain(_prepared(("true",), steps=2, bounds=(1,)))
    seen = []
    messages = iter([activation(0), Drain(step=1), activation(1), Drain(step=2, finish=True), Stop(step=2)])
    original = stages[1].work

    def work(message: Message) -> Any:
        seen.append((type(message), message.step))
        return original(message)

    stages[1].work = work  # type: ignore[method-assign]
    play(stages, messages, clock=clock, costs=COSTS)
    assert seen == [(Activation, 0), (Drain, 1), (Activation, 1), (Drain, 2), (Stop, 2)]
