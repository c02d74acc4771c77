"""Does a stage without mathematics do, at each moment, what the real one does?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from dni import Bernoulli, Critic, DirectFeedbackAlignment, Every, Kickback, MixedGradient
from pipeline.clock import Clock
from pipeline.configuration.config import Config, Data, Sgd
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, make_feed, make_inbox, prepare
from pipeline.data.feed import Feed, KeyedBatches
from pipeline.stages.stage import Stage
from pipeline.stages.trace import Event, Recorder
from pipeline.virtual_time.costs import CostModel, virtual_clock
from pipeline.virtual_time.simulator import simulate
from pipeline.virtual_time.timed import TimedLearner, build_timed_stage, make_timed_feed
from tests.pipeline.chain import WIDTH, features, labels, linear
from tests.pipeline.timed_chain import SOURCES

COSTS = CostModel(
    forward_s=(1.0, 0.5, 1.5, 1.0), learn_s=0.3, message_s=0.2, slow=((1, 1.5),), pauses=((2, 20.0, 5.0),), jitter=0.3
)
SLOW = ((2, 4.0),)
ASKING = (DirectFeedbackAlignment(WIDTH), Critic(WIDTH), MixedGradient(Kickback()))
RUNS: dict[str, dict[str, Any]] = {
    "decoupled": {},
    "syncs": {"sync": Bernoulli(0.4), "cadence": (2, 1, 3, 1)},
    "late syncs": {"sync": Every(3), "stash": "weights"},
    "mixed": {"source": tuple(SOURCES[name]() for name in ("none", "true", "shadow")), "sync": Bernoulli(0.3)},
    "local": {"source": SOURCES["local"]()},
    "local here and there": {
        "source": tuple(SOURCES[name]() for name in ("local", "synthetic", "local shadow")),
        "sync": Bernoulli(0.3),
    },
    "errors at the output": {"source": ASKING, "sync": Bernoulli(0.3), "update_probability": (1.0, 1.0, 1.0, 0.7)},
    "errors and gpipe": {"source": ASKING, "cadence": (4,), "delay": (4,), "prefer": "activations"},
    "gpipe": {"source": SOURCES["true"](), "cadence": (4,), "delay": (4,), "prefer": "activations"},
    "1f1b": {"source": SOURCES["true"](), "cadence": (4,), "delay": (4, 3, 2)},
    "replay": {"source": SOURCES["true"](), "stash": "recompute", "delay": (4, 3, 2)},
    "too stale": {"max_staleness": 1, "at_max_staleness": "drop", "delay": (4,)},
    "now and then": {"update_probability": (0.5,), "sync": Every(2)},
    "drained": {"evaluate_every": 3, "checkpoint_every": 4},
    "ready": {"arrival": "ready", "max_in_flight": (3,)},
    "newest only": {
        "arrival": "ready",
        "queue": ("latest",),
        "max_in_flight": (6,),
        "costs": replace(COSTS, slow=SLOW),
    },
}


def _prepared(**settings: Any) -> Prepared:
    x, target = features(0, num_samples=6), labels(0, num_samples=6)
    whole: dict[str, Any] = {"source": SOURCES["synthetic"](), "costs": COSTS} | settings
    return prepare(
        Config(
            model=lambda: [linear(index) for index in range(3)] + [nn.Sequential(nn.ReLU())],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=2), test=[(x[:2], target[:2])] * 2),
            loss=nn.CrossEntropyLoss(),
            optimizer=Sgd(lr=0.01),
            steps=14,
            **whole,
        )
    )


def _play(
    prepared: Prepared, build: Callable[..., Stage], make: Callable[[Prepared], Feed]
) -> tuple[float, list[list[Event]], list[Stage]]:
    clock: Clock = virtual_clock(prepared.config.costs, num_stages=4)
    stages = [build(prepared, index, clock=clock) for index in range(4)]
    elapsed_s = simulate(
        stages,
        make(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(4)],
        clock=clock,  # type: ignore[arg-type]
        costs=prepared.config.costs,
        on_drained=lambda stage, drain: None,
    )
    return elapsed_s, [stage.recorder.take_events() for stage in stages], stages


@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS)
def test_stage_without_mathematics_has_the_trace_of_the_real_one(settings: dict[str, Any]) -> None:
    prepared = _prepared(**settings)
    real_s, real, stages = _play(prepared, build_stage, make_feed)
    timed_s, timed, others = _play(prepared, build_timed_stage, make_timed_feed)
    assert timed_s == real_s and timed == real
    assert any(stage.recorder.totals.dropped for stage in stages) == ("queue" in settings)
    assert any(stage.recorder.totals.too_stale for stage in stages) == ("max_staleness" in settings)
    for stage, other in zip(stages, others, strict=True):
        ours, theirs = other.recorder.totals, stage.recorder.totals
        assert (ours.busy_s, ours.wait_s, ours.operations) == (theirs.busy_s, theirs.wait_s, theirs.operations)
        assert (ours.dropped, ours.dropped_s, ours.too_stale) == (theirs.dropped, theirs.dropped_s, theirs.too_stale)
        assert other.version == stage.version and other.stash.most_held == stage.stash.most_held
        staleness = [value for value in stage.recorder.take_values() if value[0] == "staleness"]
        assert [value for value in other.recorder.take_values() if value[0] == "staleness"] == staleness


def test_timed_learner_is_saved_by_its_version_alone() -> None:
    learner = TimedLearner(Recorder(0, virtual_clock(CostModel(), num_stages=1)))
    learner.load_state_dict({"version": 7})
    assert learner.state_dict() == {"version": 7} and learner.named_tensors() == {}
    learner.update(0)
    assert learner.version == 7, "nothing was accumulated"
