"""Does the recursion give the times of the simulation, for every method it is for, and is it fast?"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from dni import NoGradient, Shadow, SyntheticGradient, TrueGradient
from pipeline.config import Config, Data
from pipeline.costs import CostModel, virtual_clock
from pipeline.equal import equal_stages
from pipeline.feed import KeyedBatches
from pipeline.recursion import recur, why_not_recursive
from pipeline.run import Prepared, make_inbox, prepare
from pipeline.simulator import simulate
from pipeline.timed import build_timed_stage, make_timed_feed
from pipeline.timing import StageWatch, Timing
from tests.pipeline.chain import features, labels, linear

SOURCES = {"true": TrueGradient, "synthetic": SyntheticGradient, "none": NoGradient}


@cache
def _base(source: str) -> Prepared:
    x, target = features(0, num_samples=6), labels(0, num_samples=6)
    return prepare(
        Config(
            model=lambda: [linear(0), linear(1), linear(2)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=2)),
            loss=nn.CrossEntropyLoss(),
            source=Shadow(SyntheticGradient()) if source == "shadow" else SOURCES[source](),
            steps=1,
            delay=(1,),
        )
    )


def _chain(source: str, num_stages: int, **more: Any) -> Prepared:
    chain = equal_stages(_base(source), num_stages)
    return replace(chain, config=replace(chain.config, **more))


def _simulated(prepared: Prepared) -> Timing:
    costs, num_stages = prepared.config.costs, prepared.num_stages
    clock = virtual_clock(costs, num_stages=num_stages)
    stages = [build_timed_stage(prepared, index, clock=clock) for index in range(num_stages)]
    watch = StageWatch(stages, drawn=range(num_stages))
    simulate(
        stages,
        make_timed_feed(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(num_stages)],
        clock=clock,
        costs=costs,
        on_drained=lambda stage, drain: None,
        on_turn=watch.look,
    )
    return watch.timing()


@st.composite
def _runs(draw: st.DrawFn) -> dict[str, Any]:
    num_stages = draw(st.integers(2, 6))
    seconds = st.sampled_from([0.0, 0.3, 1.0, 2.5])
    each = st.lists(seconds, min_size=num_stages, max_size=num_stages).map(tuple)
    source = draw(st.sampled_from(["true", "true", "shadow", "synthetic", "none"]))
    return {
        "source": source,
        "num_stages": num_stages,
        "steps": draw(st.integers(1, 12)),
        "cadence": (draw(st.integers(1, 5)),),
        "delay": draw(
            st.one_of(
                st.integers(1, 14).map(lambda delay: (delay,)),
                st.just(tuple(range(num_stages, 1, -1))),
                st.lists(st.integers(1, 7), min_size=num_stages - 1, max_size=num_stages - 1).map(tuple),
            )
        ),
        "stash": draw(st.sampled_from(["hold", "recompute", "weights"])),
        "max_staleness": draw(st.sampled_from([None, None, 1, 2])),
        "prefer": draw(st.sampled_from(["gradients", "activations"])) if source == "true" else "gradients",
        "costs": CostModel(
            forward_s=draw(each),
            backward_s=draw(each),
            learn_s=draw(each),
            update_s=draw(seconds),
            message_s=draw(st.sampled_from([0.0, 0.01, 2.0])),
            bytes_per_s=draw(st.sampled_from([np.inf, 100.0])),
            message_bytes=(draw(st.sampled_from([0, 40, 300])),),
            slow=((draw(st.integers(0, num_stages - 1)), 2.5),),
            jitter=draw(st.sampled_from([0.0, 0.5])),
            message_jitter=draw(st.sampled_from([0.0, 0.5])),
            seed=draw(st.integers(0, 3)),
        ),
    }


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(_runs())
def test_recursion_gives_the_times_of_the_simulation(run: dict[str, Any]) -> None:
    prepared = _chain(**run)
    assert why_not_recursive(prepared) is None
    simulated = _simulated(prepared)
    computed = recur(prepared, prepared.config.costs, drawn=range(prepared.num_stages))
    for name in (
        "done_s",
        "busy_s",
        "forwards",
        "backwards",
        "updates",
        "most_held",
        "staleness_mean",
        "staleness_max",
    ):
        np.testing.assert_allclose(getattr(computed, name), getattr(simulated, name), rtol=0, atol=1e-9, err_msg=name)
    assert computed.end_s == pytest.approx(simulated.end_s, abs=1e-9)
    for stage, events in simulated.events.items():
        mine = computed.events[stage]
        assert [event[:2] for event in mine] == [event[:2] for event in events]
        np.testing.assert_allclose([e[2:4] for e in mine], [e[2:4] for e in events], rtol=0, atol=1e-9)
