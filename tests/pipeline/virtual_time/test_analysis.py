"""Are the bounds those of the textbooks, does no run beat them, and is memory counted as each stash keeps it?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from dni import DiscrepancyCorrection, Every, TopOrAll, WeightPrediction
from pipeline.configuration.methods import MethodName
from pipeline.virtual_time.analysis import fastest, held_bytes, own_seconds, wire_bytes
from pipeline.virtual_time.costs import CostModel
from pipeline.virtual_time.equal import equal_stages
from pipeline.virtual_time.recursion import recur
from pipeline.virtual_time.rehearsal import rehearse
from tests.pipeline.timed_chain import timed_chain, timed_method

COSTS = CostModel(forward_s=1.0, backward_s=2.0, learn_s=0.5, update_s=0.25, message_s=0.0)
S, M = 6, 4


@pytest.mark.parametrize(
    ("name", "period_s", "reason"),
    [
        ("backprop", S * 3.0 + 0.25, "all stages, one after another"),
        ("gpipe", ((M + S - 1) * 3.0 + 0.25) / M, "a chain filled and emptied every 4 microbatches"),
        ("1f1b", ((M + S - 1) * 3.0 + 0.25) / M, "a chain filled and emptied every 4 microbatches"),
        ("pipedream", 3.25, "the slowest stage"),
        ("features-replay", 4.25, "the slowest stage"),
        ("decoupled", 3.75, "the slowest stage"),
    ],
)
def test_equal_stages_that_lose_no_time_reach_the_bound(name: MethodName, period_s: float, reason: str) -> None:
    prepared = timed_method(name, S, num_microbatches=M, steps=8 * M, costs=COSTS)
    bound = fastest(prepared, COSTS)
    assert bound.period_s == pytest.approx(period_s) and bound.reason == reason
    window = prepared.config.cadence[0]
    assert rehearse(prepared, way="stages").timing.steady_period_s(window) == pytest.approx(period_s)


@pytest.mark.parametrize("name", get_args(MethodName))
def test_uneven_stages_do_not_beat_the_bound(name: MethodName) -> None:
    drawn = np.random.default_rng(0)
    for _ in range(20):
        costs = CostModel(
            forward_s=tuple(drawn.uniform(0.1, 3.0, S).tolist()),
            backward_s=tuple(drawn.uniform(0.1, 5.0, S).tolist()),
            learn_s=float(drawn.uniform(0.0, 2.0)),
            update_s=float(drawn.uniform(0.0, 2.0)),
            message_s=0.1,
            bytes_per_s=float(drawn.choice([np.inf, 10.0])),
            message_bytes=(30,),
        )
        prepared = timed_method(name, S, num_microbatches=M, steps=10 * M, costs=costs)
        assert recur(prepared, costs).period_s() >= fastest(prepared, costs).period_s - 1e-9


def test_bound_follows_from_what_may_be_in_flight_or_from_the_slowest_link() -> None:
    late: dict[str, Any] = {"stash": "weights", "steps": 40, "costs": COSTS}
    narrow = timed_chain("true", S, delay=(2,), **late)
    assert fastest(narrow, COSTS).period_s == S * 3.0 / 2
    assert fastest(narrow, COSTS).reason == "2 microbatches in the whole chain"
    thin = replace(COSTS, bytes_per_s=10.0, message_bytes=(50,))
    assert fastest(timed_chain("synthetic", S), thin).period_s == 5.0
    assert fastest(timed_chain("synthetic", S), thin).reason == "the slowest link"
    assert fastest(timed_chain("synthetic", S, sync=Every(3)), COSTS).reason == "the slowest stage, syncs apart"


def test_own_seconds_count_what_a_stage_does() -> None:
    assert own_seconds(timed_chain("none", 3), COSTS).tolist() == [1.0, 1.0, 3.25]
    assert own_seconds(timed_chain("synthetic", 3, cadence=(5,)), COSTS).tolist() == pytest.approx([3.55, 3.55, 3.05])
    assert own_seconds(timed_chain("true", 3, stash="recompute"), COSTS).tolist() == [4.25, 4.25, 3.25]
    assert own_seconds(timed_chain("shadow", 2), COSTS).tolist() == [3.75, 3.25]
    assert own_seconds(timed_chain("local", 3), COSTS).tolist() == [3.75, 3.75, 3.25]


def test_memory_is_what_the_stash_keeps() -> None:
    chain = timed_chain("true", 4, steps=20, delay=(4, 3, 2), costs=COSTS)
    plan = chain.plans[0]
    graph, weights, x = plan.held_bytes, plan.parameter_bytes, plan.input_bytes
    assert graph > 0 and weights == 48 and x == 24

    def kept(**settings: Any) -> list[float]:
        prepared = replace(chain, config=replace(chain.config, **settings))
        found: list[float] = held_bytes(prepared, rehearse(prepared, way="stages").timing).tolist()
        return found

    last = chain.plans[-1].held_bytes
    assert kept(stash="weights") == [4 * (graph + weights), 3 * (graph + weights), 2 * (graph + weights), last]
    few = 2 * weights  # an update every third microbatch
    assert kept(stash="weights", cadence=(3,)) == [4 * graph + few, 3 * graph + few, 2 * graph + few, last]
    assert kept(stash="recompute") == [4 * x + graph, 3 * x + graph, 2 * x + graph, last]
    assert kept(stash="graph") == [4 * graph, 3 * graph, 2 * graph, last]
    moving = 2 * weights  # the velocity, and the weights before an update
    seen = kept(stash="graph", correction=WeightPrediction())
    assert seen == [4 * graph + moving, 3 * graph + moving, 2 * graph + moving, last]
    seen = kept(stash="weights", cadence=(3,), correction=WeightPrediction())
    assert seen[0] == 4 * (graph + weights) + moving, "each was forwarded with weights of its own"
    seen = kept(stash="weights", cadence=(3,), correction=DiscrepancyCorrection())
    assert seen[0] == 4 * graph + few + moving
    assert kept(stash="hold", cadence=(20,)) == [4 * graph, 3 * graph, 2 * graph, last]
    decoupled = timed_chain("synthetic", 3, steps=20, delay=(2,), costs=COSTS)
    outputs = 2 * decoupled.plans[0].activation_bytes  # the source learns from them
    found = held_bytes(decoupled, rehearse(decoupled, way="stages").timing)
    assert found.tolist() == [graph + outputs, graph + outputs, decoupled.plans[-1].held_bytes]
    local = timed_chain("local", 3, steps=20, delay=(2,), costs=COSTS)
    found = held_bytes(local, rehearse(local, way="stages").timing)
    assert found.tolist() == [graph, graph, local.plans[-1].held_bytes], "nothing comes back to learn from"


def test_stages_that_pause_save_time_and_bytes() -> None:
    policy = TopOrAll(0.0, top=2, unit="stages")
    prepared = equal_stages(timed_chain("true", 2, steps=40, delay=(4,), costs=COSTS, participation=policy), 4)
    rehearsal = rehearse(prepared, way="stages")
    plan = prepared.plans[0]
    assert (
        own_seconds(prepared, COSTS).tolist()
        == [COSTS.forward_s] * 2 + [COSTS.forward_s + COSTS.backward_s + COSTS.update_s] * 2
    )
    sent = wire_bytes(rehearsal.prepared, rehearsal.costs, rehearsal.timing)
    assert sent.tolist() == [40 * plan.activation_bytes] * 2 + [80 * plan.activation_bytes]
    assert rehearsal.timing.backwards.tolist() == [0, 0, 40, 40]


def test_bytes_go_up_with_activations_and_down_with_gradients() -> None:
    for source, messages in (("synthetic", 2), ("local", 1), ("none", 1)):
        prepared = timed_chain(source, 4, steps=10, costs=COSTS)
        rehearsal = rehearse(prepared, way="stages")
        sent = wire_bytes(rehearsal.prepared, rehearsal.costs, rehearsal.timing)
        bytes_each = prepared.plans[0].activation_bytes
        assert sent.tolist() == [10 * messages * bytes_each] * 3
