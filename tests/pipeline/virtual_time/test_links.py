"""Do messages arrive in order, after their latency, and no faster than the bandwidth lets them?"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from pipeline.messages import Activation, Drain, Gradient, Message, OutputError
from pipeline.virtual_time.costs import CostModel
from pipeline.virtual_time.links import Links

ACTIVATION = Activation(step=0, h=())
GRADIENT = Gradient(step=0, value=())
CREDIT = Gradient(step=0, value=None)


def _arrivals(costs: CostModel, sent: list[tuple[Message, float]], **way: int) -> list[float]:
    links = Links(costs, num_stages=3)
    return [links.arrival_s(message, now_s=now_s, **way) for message, now_s in sent]


def test_message_takes_the_latency_and_one_to_oneself_none() -> None:
    costs = CostModel(message_s=0.5)
    assert _arrivals(costs, [(ACTIVATION, 1.0), (ACTIVATION, 1.0)], sender=0, to=1) == [1.5, 1.5]
    assert _arrivals(costs, [(CREDIT, 2.0)], sender=2, to=1) == [2.5]
    assert _arrivals(costs, [(GRADIENT, 2.0)], sender=2, to=2) == [2.0]


def test_bytes_come_in_one_message_after_another() -> None:
    costs = CostModel(message_s=1.0, bytes_per_s=10.0, message_bytes=(20, 40))
    sent: list[tuple[Message, float]] = [(ACTIVATION, 0.0), (ACTIVATION, 0.5), (Drain(step=2), 0.6), (ACTIVATION, 9.0)]
    assert _arrivals(costs, sent, sender=0, to=1) == [3.0, 5.0, 5.0, 12.0]
    assert _arrivals(costs, [(GRADIENT, 0.0), (CREDIT, 0.1), (GRADIENT, 0.2)], sender=2, to=1) == [5.0, 5.0, 9.0]


def test_ways_up_and_down_do_not_hinder_each_other() -> None:
    links = Links(CostModel(message_s=0.0, bytes_per_s=10.0, message_bytes=(100,)), num_stages=3)
    assert links.arrival_s(ACTIVATION, sender=0, to=1, now_s=0.0) == 10.0
    assert links.arrival_s(GRADIENT, sender=1, to=0, now_s=0.0) == 10.0
    assert links.arrival_s(ACTIVATION, sender=1, to=2, now_s=0.0) == 10.0


def test_errors_go_straight_and_hinder_no_gradient() -> None:
    links = Links(CostModel(message_s=1.0, bytes_per_s=10.0, message_bytes=(100,), error_bytes=30), num_stages=3)
    error = OutputError(step=0, value=torch.empty(0))
    assert [links.arrival_s(error, sender=2, to=to, now_s=0.0) for to in (0, 1, 1)] == [4.0, 4.0, 7.0]
    assert links.arrival_s(OutputError(step=1), sender=2, to=0, now_s=6.0) == 7.0
    assert links.arrival_s(GRADIENT, sender=2, to=1, now_s=0.0) == 11.0


@pytest.mark.parametrize("way", [{"sender": 0, "to": 1}, {"sender": 2, "to": 1}])
def test_jitter_is_each_ways_own_and_keeps_the_order(way: dict[str, Any]) -> None:
    costs = CostModel(message_s=1.0, message_jitter=0.2)
    sent: list[tuple[Message, float]] = [(ACTIVATION, 0.1 * number) for number in range(100)]
    arrivals = _arrivals(costs, sent, **way)
    assert all(a <= b for a, b in pairwise(arrivals)) and len(set(arrivals)) > 10
    assert arrivals == _arrivals(costs, sent, **way)
    assert arrivals != _arrivals(costs, sent, sender=way["to"], to=way["sender"])
