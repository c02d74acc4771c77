"""Do bound and preference give the textbook's schedules, and is the order written down whole?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni import TrueGradient
from pipeline import Config, CostModel, Data, KeyedBatches, Sgd, prepare, run_simulated
from pipeline.clock import VirtualClock
from pipeline.configuration.conditions import Conditions
from pipeline.configuration.run import build_stage, make_feed, make_inbox
from pipeline.errors import ConfigurationError, SaveFailure
from pipeline.records.monitor import StageMonitor
from pipeline.records.order import OrderFile, read_order, read_order_from, recorded_steps, split_order
from pipeline.stages.arrival import Arrival
from pipeline.virtual_time.simulator import simulate
from tests.pipeline.chain import WIDTH, activation, features, labels, linear, make_stage
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


HERE = Conditions(
    torch_version="2.13.0", device="cpu", processor="a CPU", instructions="AVX2", num_threads=1, config=None
)


def record(run: Path, messages: str, *, since: int = 0, stage: int = 2) -> None:
    """Write down one attempt of a stage."""
    file = OrderFile(run, stage, since=since, conditions=HERE)
    for message in messages.split():
        file.add(message)
    file.close()


def recorded(run: Path, stage: int = 2) -> list[tuple[int, str]]:
    """What was written down: where each attempt began, and its messages."""
    return [(attempt.since, " ".join(attempt.messages)) for attempt in read_order(run, stage)]


def test_record_of_the_order_goes_on_right_after_the_drain_it_was_saved_at(tmp_path: Path) -> None:
    record(tmp_path, "A0 G0 A1 G1 D2s A2 G2 D3 E0 A3")
    with (tmp_path / "order" / "stage-2.txt").open("a") as file:
        file.write("G")  # the process died while it wrote
    assert recorded(tmp_path) == [(0, "A0 G0 A1 G1 D2s A2 G2 D3 E0 A3")]
    record(tmp_path, "A2", since=2)
    assert recorded(tmp_path) == [(0, "A0 G0 A1 G1 D2s"), (2, "A2")]
    record(tmp_path, "A2 G2 D3sf", since=2)
    assert recorded(tmp_path) == [(0, "A0 G0 A1 G1 D2s"), (2, "A2 G2 D3sf")]
    assert all(attempt.conditions == HERE for attempt in read_order(tmp_path, 2))
    record(tmp_path, "")
    assert recorded(tmp_path) == [(0, "")] and read_order(tmp_path, 5) == []


def test_gradients_that_end_a_drain_belong_before_it_and_what_was_dropped_early_after_it(tmp_path: Path) -> None:
    record(tmp_path, "A0 A1 G0 G1 A2 X3 X5 D4s G2 X4 A6 G6 Z7")
    assert [attempt.messages for part in split_order(read_order(tmp_path, 2), 4) for attempt in part] == [
        ["A0", "A1", "G0", "G1", "A2", "X3", "D4s", "G2"],
        ["X5", "X4", "A6", "G6", "Z7"],
    ]
    record(tmp_path, "A4", since=4)
    assert recorded(tmp_path) == [(0, "A0 A1 G0 G1 A2 X3 D4s G2"), (4, "A4")]


def test_run_that_goes_on_from_its_end_has_not_finished_there(tmp_path: Path) -> None:
    record(tmp_path, "A0 G0 D1sf E0 D1 Z1")
    record(tmp_path, "A1", since=1)
    assert recorded(tmp_path) == [(0, "A0 G0 D1s"), (1, "A1")]


def test_length_of_a_run_is_what_it_took_and_more_unless_it_came_to_its_end(tmp_path: Path) -> None:
    assert recorded_steps(tmp_path) == 1
    record(tmp_path, "A0 A1 G0 G1 D2s A2", stage=0)
    assert recorded_steps(tmp_path) == 4, "it was stopped, and would have gone on"
    record(tmp_path, "A2 G2 D3sf", since=2, stage=0)
    assert recorded_steps(tmp_path) == 3
    record(tmp_path, "A3 W3 G3 A4 D5sf E0 D5 Z5", since=3, stage=0)
    assert recorded_steps(tmp_path) == 5


def test_attempt_whose_past_is_lost_begins_the_record(tmp_path: Path) -> None:
    record(tmp_path, "A4 D6s", since=4)
    assert recorded(tmp_path) == [(4, "A4 D6s")]
    assert [attempt.since for attempt in read_order_from(tmp_path, 2, 4)] == [4]
    with pytest.raises(ConfigurationError, match=r"from step 0: what stage 2 handled is recorded from step 4, 6 on"):
        read_order_from(tmp_path, 2, 0)
    with pytest.raises(ConfigurationError, match="no record of the order in which stage 3"):
        read_order_from(tmp_path, 3, 0)


@pytest.mark.parametrize("line", ["A", "B4", "A4G4", "D4fs", "# {}", "# no JSON", "", "A1 "])
def test_record_that_was_changed_is_refused_by_line(line: str, tmp_path: Path) -> None:
    record(tmp_path, "A0")
    with (tmp_path / "order" / "stage-2.txt").open("a") as file:
        file.write(f"{line}\nA1\n")
    with pytest.raises(ConfigurationError, match=r"stage-2.txt, line 3"):
        read_order(tmp_path, 2)


def test_disk_that_is_full_is_named_with_the_file(tmp_path: Path) -> None:
    file = OrderFile(tmp_path, 0, since=0, conditions=HERE)
    file.close()
    with Path("/dev/full").open("wb", buffering=0) as full:
        file._file = full
        with pytest.raises(SaveFailure, match=r"stage 0 could not be saved at step 7: .*stage-0.txt: No space left"):
            file.add("D7s")


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
    assert recorded(tmp_path, 1) == [(0, "A0 A1 D2s A2 A3 D4sf E0 D4 Z4")]
    assert recorded(tmp_path, 0) == [(0, "A0 G0 A1 G1 D2s A2 G2 A3 G3 D4sf E0 D4 G0 Z4")]


def test_message_is_on_disk_before_it_is_handled(tmp_path: Path) -> None:
    """A process that is killed closes nothing, and the message it died of is the last."""
    seen = []

    class Look(nn.Module):
        def forward(self, h: torch.Tensor) -> torch.Tensor:
            seen.append(recorded(tmp_path, 1))
            return h

    stage = make_stage(Look(), index=1, num_stages=2)
    monitor = StageMonitor(stage, folder=tmp_path, log_every=100)
    for step in range(2):
        stage.handle(activation(step))
    assert seen == [[(0, "A0")], [(0, "A0 A1")]]
    monitor.close()
