"""Does the recursion give the times of the simulation, for every method it is for, and is it fast?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dni import Every
from pipeline.virtual_time.costs import CostModel
from pipeline.virtual_time.recursion import recur, why_not_recursive
from pipeline.virtual_time.rehearsal import rehearse
from tests.pipeline.timed_chain import timed_chain, timed_method


@st.composite
def _runs(draw: st.DrawFn) -> dict[str, Any]:
    num_stages = draw(st.integers(2, 6))
    seconds = st.sampled_from([0.0, 0.3, 1.0, 2.5])
    each = st.lists(seconds, min_size=num_stages, max_size=num_stages).map(tuple)
    source = draw(st.sampled_from(["true", "true", "shadow", "local shadow", "synthetic", "local", "none"]))
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


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(_runs())
def test_recursion_gives_the_times_of_the_simulation(run: dict[str, Any]) -> None:
    prepared = timed_chain(**run)
    assert why_not_recursive(prepared) is None
    simulated = rehearse(prepared, way="stages", drawn=range(prepared.num_stages)).timing
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


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"arrival": "ready"}, "arrival is ready"),
        ({"sync": Every(3)}, "it syncs"),
        ({"cadence": (1, 2, 1)}, "cadences differ"),
        ({"update_probability": (0.5,)}, "update_probability"),
        ({"max_staleness": 1, "at_max_staleness": "drop"}, "too stale"),
        ({"costs": CostModel(pauses=((0, 1.0, 1.0),))}, "paused"),
        ({"checkpoint_every": 2}, "drained in between"),
        ({"prefer": "activations"}, "defers"),
    ],
)
def test_recursion_says_what_it_cannot_compute(settings: dict[str, Any], reason: str) -> None:
    why = why_not_recursive(timed_chain("synthetic", 3, **{"steps": 6, **settings}))
    assert why is not None and reason in why


def test_chains_of_one_stage_or_of_several_methods_are_left_to_the_simulation() -> None:
    chain = timed_chain("synthetic", 3, steps=2)
    mixed = replace(chain, sources=(*timed_chain("true", 2).sources[:1], *chain.sources[1:]))
    assert why_not_recursive(mixed) == "some boundaries wait for the gradient and some do not"
    one = replace(chain, cut=replace(chain.cut, stages=chain.cut.stages[:1]), sources=chain.sources[-1:])
    assert why_not_recursive(one) == "there is one stage"


def test_long_chain_takes_no_longer_than_its_microbatches() -> None:
    """Work grows with steps, not with the depth of what depends on what: 2,000 stages would take it minutes."""
    steps: list[int] = []
    prepared = timed_method("1f1b", 2000, steps=32)
    timing = recur(prepared, prepared.config.costs, on_step=steps.append)
    assert timing.num_stages == 2000 and steps == list(range(1, 33))
    own_s = 3.0 + 0.02  # a forward, a backward, and a message for each
    assert timing.steady_period_s(8) == pytest.approx((2000 * own_s + 7 * 3.0 + 0.1) / 8, rel=1e-3)
