"""Does every operation cost what was said, whatever happened before it elsewhere?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pipeline.clock import VirtualClock
from pipeline.errors import ConfigurationError
from pipeline.virtual_time.costs import CostModel, jitter, jitters, measured_costs, virtual_clock


def _spent(clock: VirtualClock, stage: int, operation: str) -> float:
    start_s = clock.now()
    return clock.spend(stage, operation) - start_s


def test_jitter_depends_on_what_it_belongs_to_and_not_on_the_order_of_turns() -> None:
    costs = CostModel(jitter=0.4, seed=7)
    one, other = (virtual_clock(costs, num_stages=3) for _ in range(2))
    turns = [(stage, operation) for stage in range(3) for operation in "FBLU" for _ in range(5)]
    found: list[dict[tuple[int, str], list[float]]] = [{}, {}]
    for clock, order, own in ((one, turns, found[0]), (other, turns[::-1], found[1])):
        for stage, operation in order:
            own.setdefault((stage, operation), []).append(_spent(clock, stage, operation))
    for key, spent in found[0].items():
        assert spent == pytest.approx(found[1][key]), key
    assert len({round(seconds, 9) for spent in found[0].values() for seconds in spent}) == len(turns)


def test_jitter_is_lognormal_with_a_mean_of_one() -> None:
    factors = jitter(0.5, seed=0, name="F", index=np.arange(200)[:, None], count=np.arange(500))
    logs = np.log(factors)
    assert factors.mean() == pytest.approx(1.0, abs=0.01)
    assert logs.mean() == pytest.approx(-0.125, abs=0.01) and logs.std() == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(logs[:, :-1].ravel(), logs[:, 1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(logs[:-1].ravel(), logs[1:].ravel())[0, 1]) < 0.02


def test_jitter_is_the_same_one_by_one_and_all_at_once_and_on_every_machine() -> None:
    own = jitters(0.3, seed=1, name="B", index=4)
    one_by_one = [next(own) for _ in range(600)]
    assert one_by_one == jitter(0.3, seed=1, name="B", index=4, count=np.arange(600)).tolist()
    assert one_by_one[:3] == [1.2798, 0.870508, 0.93807]
    assert jitter(0.0, seed=1, name="B", index=4, count=3).tolist() == [1.0]
    others = [jitter(0.3, seed=s, name=n, index=i, count=0)[0] for s, n, i in ((2, "B", 4), (1, "F", 4), (1, "B", 5))]
    assert len({one_by_one[0], *others}) == 4


def test_means_are_one_for_all_or_one_each_and_stragglers_are_slow_in_everything() -> None:
    costs = CostModel(forward_s=(1.0, 2.0, 3.0), backward_s=4.0, learn_s=0.0, slow=((1, 2.5), (1, 2.0), (2, 0.5)))
    means = costs.means(3)
    assert means["F"].tolist() == means["R"].tolist() == [1.0, 10.0, 1.5]
    assert means["B"].tolist() == [4.0, 20.0, 2.0] and means["L"].tolist() == [0.0] * 3
    for stage in range(3):
        for operation in "FRBLU":
            assert costs.operation_s(stage, operation) == means[operation][stage]
            assert _spent(virtual_clock(costs, num_stages=3), stage, operation) == means[operation][stage]


def test_bytes_take_their_time_if_there_is_a_bandwidth() -> None:
    assert CostModel(message_bytes=(100,)).transfer_s(3).tolist() == [0.0, 0.0]
    costs = CostModel(bytes_per_s=50.0)
    assert costs.with_bytes([100, 25]).transfer_s(3).tolist() == [2.0, 0.5]
    assert CostModel(bytes_per_s=50.0, message_bytes=(5,)).with_bytes([100, 25]).transfer_s(3).tolist() == [0.1, 0.1]
    assert [CostModel(error_bytes=own).with_bytes([1], error=80).error_bytes for own in (0, 7)] == [80, 7]
    with pytest.raises(ConfigurationError, match=r"bytes_per_s needs costs\.message_bytes"):
        costs.transfer_s(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forward_s": -1.0}, "costs.forward_s must be at least 0 and finite, got -1.0"),
        ({"update_s": (0.1, math.inf)}, "costs.update_s must be at least 0"),
        ({"jitter": math.nan}, "costs.jitter"),
        ({"bytes_per_s": 0.0}, "costs.bytes_per_s must be positive"),
        ({"message_bytes": (3, -1)}, "costs.message_bytes"),
        ({"slow": ((0, 0.0),)}, "costs.slow takes"),
        ({"pauses": ((0, -1.0, 2.0),)}, "costs.pauses takes"),
    ],
)
def test_costs_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CostModel(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backward_s": (1.0, 2.0)}, "costs.backward_s takes 1 number or 3 .one per stage., got 2"),
        (
            {"message_bytes": (1, 2, 3), "bytes_per_s": 1.0},
            "message_bytes takes 1 number or 2 .one per boundary.",
        ),
        ({"slow": ((3, 2.0),)}, "costs.slow names stage 3, but the stages are 0 to 2"),
        ({"pauses": ((-1, 1.0, 2.0),)}, "costs.pauses names stage -1"),
    ],
)
def test_costs_that_do_not_fit_the_chain_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CostModel(**settings).check(3)


def test_measured_costs_are_each_stages_own() -> None:
    stages = [
        {"operation_s": {"F": 0.1, "B": 0.3, "L": 0.05, "U": 0.01}},
        {"operation_s": {"F": 0.2, "B": 0.5, "U": 0.02}},
    ]
    costs = measured_costs(CostModel(message_s=0.5), stages)
    assert costs == CostModel(
        forward_s=(0.1, 0.2), backward_s=(0.3, 0.5), learn_s=(0.05, 0.05), update_s=(0.01, 0.02), message_s=0.5
    )
    without = measured_costs(CostModel(learn_s=9.0), [{"operation_s": {"F": 0.1}}])
    assert without == CostModel(learn_s=9.0, forward_s=(0.1,))
    with pytest.raises(ConfigurationError, match="does not say what operations took"):
        measured_costs(CostModel(), [{"busy_s": 3.0}])
