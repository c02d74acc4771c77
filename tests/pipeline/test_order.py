"""Do bound and preference give the textbook's schedules, and is the order written down whole?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dni import TrueGradient
from pipeline import Config, CostModel, Data, KeyedBatches, Sgd, prepare, run_simulated
from pipeline.arrival import Arrival
from pipeline.clock import VirtualClock
from pipeline.order import open_order, read_order
from pipeline.run import build_stage, make_feed, make_inbox
from pipeline.simulator import simulate
from tests.pipeline.chain import WIDTH, features, labels, linear
from tests.reference import Problem, assert_bit_equal, summed_loss_loop


def gpipe(stage: int, num_stages: int, num_microbatches: int) -> list[str]:
    """All forwards, then all backwards.    Source: Huang et al. 2019, figure 2."""
    microbatches = range(num_microbatches)
    return [f"F{m}" for m in microbatches] + [f"B{m}" for m in microbatches]


def one_f_one_b(stage: int, num_stages: int, num_microbatches: int) -> list[str]:
    """Some forwards to warm up, one backward after each forward, the rest.    Source: Narayanan et al. 2021, 2.2."""
    warm = min(num_microbatches, num_stages - 1 - stage)
    order = [f"F{m}" for m in range(warm)]
    for m in range(num_microbatches - warm):
        order += [f"F{warm + m}", f"B{m}"]
    return order + [f"B{m}" for m in range(num_microbatches - warm, num_microbatches)]


def orders(num_stages: int, num_microbatches: int, *, costs: CostModel, **settings: Any) -> list[list[list[str]]]:
    """Per stage and window of microbatches, what it did; microbatches counted in their window."""
    x, target = features(0, num_samples=6), labels(0, num_samples=6)
    windows = 3
    prepared = prepare(
        Config(
            model=lambda: [linear(index) for index in range(num_stages)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=2)),
            loss=nn.CrossEntropyLoss(),
            source=TrueGradient(),
            optimizer=Sgd(lr=0.01),
            steps=windows * num_microbatches,
            cadence=(num_microbatches,),
            costs=costs,
            **settings,
        )
    )
    clock = VirtualClock(costs.operation_s)
    stages = [build_stage(prepared, index, clock=clock) for index in range(num_stages)]
    simulate(
        stages,
        make_feed(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(num_stages)],
        clock=clock,
        costs=costs,
        on_drained=lambda stage, drain: None,
    )
    found = []
    for stage in stages:
        own: list[list[str]] = [[] for _ in range(windows)]
        for event in stage.recorder.take_events():
            if event.operation in "FB":
                window, m = divmod(event.step, num_microbatches)
                own[window].append(f"{event.operation}{m}")
        found.append(own)
    return found


COSTS = [
    CostModel(forward_s=1.0, backward_s=2.0, update_s=0.1, message_s=0.0),
    CostModel(forward_s=1.0, backward_s=1.0, update_s=0.0, message_s=1 / 128),
]


@pytest.mark.parametrize("arrival", ["fixed", "ready"])
@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize(("num_stages", "num_microbatches"), [(2, 1), (2, 4), (3, 8), (4, 4), (4, 3), (6, 8)])
def test_bound_and_preference_give_gpipe_and_1f1b(
    arrival: Arrival, costs: CostModel, num_stages: int, num_microbatches: int
) -> None:
    sizes = (num_stages, num_microbatches)
    for textbook, bounds, prefer in (
        (gpipe, (num_microbatches,), "activations"),
        (one_f_one_b, tuple(range(num_stages, 1, -1)), "gradients"),
    ):
        name = "delay" if arrival == "fixed" else "max_in_flight"
        found = orders(*sizes, costs=costs, arrival=arrival, prefer=prefer, **{name: bounds})
        for stage, windows in enumerate(found):
            for window in windows:
                assert window == textbook(stage, *sizes), (textbook.__name__, stage)


def test_gpipe_and_1f1b_and_one_large_batch_are_the_same_training() -> None:
    problem = Problem(num_stages=4, steps=16)
    expected = summed_loss_loop(problem, cadence=4)
    for settings in (
        {"delay": (4,), "prefer": "activations"},
        {"delay": (4, 3, 2)},
        {"max_in_flight": (4,), "prefer": "activations", "arrival": "ready"},
        {"max_in_flight": (4, 3, 2), "arrival": "ready"},
    ):
        run = run_simulated(prepare(problem.config(TrueGradient(), cadence=(4,), **settings)))
        assert_bit_equal(run.export(), expected)


def test_record_of_the_order_goes_on_right_after_the_drain_it_was_saved_at(tmp_path: Path) -> None:
    with open_order(tmp_path, 2, since=0) as file:
        file.write("A0\nG0\nA1\nG1\nD2s\nA2\nG2\nD3\nE0\nA3\nG")
    assert read_order(tmp_path, 2) == ["A0", "G0", "A1", "G1", "D2s", "A2", "G2", "D3", "E0", "A3"]
    with open_order(tmp_path, 2, since=2) as file:
        file.write("A2\n")
    assert read_order(tmp_path, 2) == ["A0", "G0", "A1", "G1", "D2s", "A2"]
    open_order(tmp_path, 2, since=0).close()
    assert read_order(tmp_path, 2) == read_order(tmp_path, 5) == []


def test_run_with_a_folder_records_every_message_it_handled(tmp_path: Path) -> None:
    x, target = features(0, num_samples=6), labels(0, num_samples=6)
    config = Config(
        model=lambda: [linear(0), linear(1)],
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=2), test=[(x[:, :WIDTH], target)]),
        loss=nn.CrossEntropyLoss(),
        steps=4,
        delay=(2,),
        checkpoint_every=2,
    )
    run_simulated(prepare(config), folder=tmp_path)
    assert " ".join(read_order(tmp_path, 1)) == "A0 A1 D2s A2 A3 D4sf E0 D4 Z4"
    assert " ".join(read_order(tmp_path, 0)) == "A0 G0 A1 G1 D2s A2 G2 A3 G3 D4sf E0 D4 G0 Z4"
