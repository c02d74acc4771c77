"""Does a slow stage leave the others alone, as far as their bound and their queue's policy allow?"""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from dni import SyntheticGradient
from pipeline import Config, CostModel, Data, KeyedBatches, Sgd, prepare
from pipeline.clock import VirtualClock
from pipeline.configuration.run import build_stage, make_feed, make_inbox
from pipeline.stages.stage import Stage
from pipeline.virtual_time.simulator import simulate
from tests.pipeline.chain import features, labels, linear

OPERATIONS_S = {"F": 1.0, "B": 2.0, "L": 0.5, "U": 0.5, "R": 1.0}
OWN_S = 4.0
"""A microbatch of a stage that is not slow."""


def play(*, slow: int, steps: int = 60, **settings: Any) -> tuple[list[Stage], float]:
    """Four decoupled stages, one of them 2.5 times slower; the stages and the time it took."""
    x, target = features(0, num_samples=6), labels(0, num_samples=6)
    prepared = prepare(
        Config(
            model=lambda: [linear(index) for index in range(4)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=2)),
            loss=nn.CrossEntropyLoss(),
            source=SyntheticGradient(),
            optimizer=Sgd(lr=0.01),
            steps=steps,
            arrival="ready",
            **settings,
        )
    )
    clock = VirtualClock(lambda stage, operation: OPERATIONS_S[operation] * (2.5 if stage == slow else 1.0))
    stages = [build_stage(prepared, index, clock=clock) for index in range(4)]
    elapsed_s = simulate(
        stages,
        make_feed(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(4)],
        clock=clock,
        costs=CostModel(message_s=0.0),
        on_drained=lambda stage, drain: None,
    )
    return stages, elapsed_s


@pytest.mark.parametrize(("policy", "size"), [("latest", 2), ("drop_oldest", 2)])
def test_stages_below_a_slow_one_go_at_their_own_pace_if_its_queue_drops(policy: str, size: int) -> None:
    stages, _ = play(slow=2, queue=("block", policy, "block"), max_in_flight=(6,))
    last_forward_s = [[e.end_s for e in stage.recorder.take_events() if e.operation == "F"][-1] for stage in stages]
    assert last_forward_s[0] < 60 * OWN_S + 10, "as if nobody were slow"
    dropped = [stage.recorder.totals.dropped for stage in stages]
    assert dropped[2] > 20 and dropped[:2] == [0, 0] and dropped[3] == 0
    assert stages[1].recorder.totals.dropped_s == dropped[2] * OPERATIONS_S["F"]


def test_stages_below_a_slow_one_wait_at_their_bound_if_its_queue_blocks_and_it_is_never_idle() -> None:
    stages, elapsed_s = play(slow=2, max_in_flight=(4,))
    assert all(stage.recorder.totals.dropped == 0 for stage in stages)
    slow = stages[2].recorder.totals
    assert slow.busy_s / elapsed_s > 0.95
    assert max(stage.stash.most_held for stage in stages) == 0, "no stage needs another to learn"


def test_stages_above_a_slow_one_wait_only_for_what_it_sends() -> None:
    stages, elapsed_s = play(slow=0)
    for stage in stages[1:]:
        totals = stage.recorder.totals
        assert totals.busy_s + totals.wait_s <= elapsed_s
        assert totals.operations["F"] == 60
