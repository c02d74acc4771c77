"""Is everything a stage does and measures written where a researcher looks for it?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dni import Every, SyntheticGradient
from pipeline.clock import VirtualClock
from pipeline.messages import Drain, Gradient
from pipeline.records.monitor import StageMonitor
from pipeline.stages.stage import Stage
from tests.pipeline.chain import WIDTH, activation, make_stage

COSTS_S = {"F": 1.0, "B": 2.0, "L": 0.5, "U": 0.25}


def _bottom() -> Stage:
    clock = VirtualClock(lambda stage, operation: COSTS_S[operation])
    return make_stage(
        index=0, num_stages=2, source=SyntheticGradient(), sync=Every(2), clock=clock, measure_every=1, max_in_flight=4
    )


def _learn(stage: Stage, steps: range) -> None:
    for step in steps:
        stage.handle(activation(step))
        stage.handle(Gradient(step=step, value=torch.full((4, WIDTH), 0.5)))
        stage.recorder.waited(0.25)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_metrics_get_a_line_of_means_per_interval(tmp_path: Path) -> None:
    stage = _bottom()
    monitor = StageMonitor(stage, folder=tmp_path, log_every=2)
    looked = []
    for step in range(5):
        _learn(stage, range(step, step + 1))
        looked.append(monitor.look())
    assert looked == [False, True, False, True, False]
    monitor.close()
    lines = _lines(tmp_path / "metrics" / "stage-0.jsonl")
    assert [line["step"] for line in lines] == [1, 3, 4]
    assert {"step", "version", "time", "source_loss", "staleness", "waiting_share", "samples_per_s"} <= set(lines[0])
    assert {"gradient_cosine", "gradient_norm_ratio", "parameter_cosine", "parameter_norm_ratio"} <= set(lines[1])
    assert [line["version"] for line in lines] == [2, 4, 5]
    assert lines[0]["staleness"] == pytest.approx(0.5), "the mean of a step that updates at once, and of a sync step"


def test_trace_has_every_event_in_pipeline_notation(tmp_path: Path) -> None:
    stage = _bottom()
    monitor = StageMonitor(stage, folder=tmp_path, log_every=1)
    _learn(stage, range(2))
    monitor.close()
    lines = _lines(tmp_path / "trace" / "stage-0.jsonl")
    assert [line["event"] for line in lines] == ["0F0", "0B0", "0U0", "0L0", "0F1", "0S1", "0B1", "0L1", "0U1"]
    assert [(line["start_s"], line["end_s"]) for line in lines[:3]] == [(0.0, 1.0), (1.0, 3.0), (3.0, 3.25)]
    assert [line["reach"] for line in lines if line["event"] in ("0F0", "0F1")] == [0, 2]


def test_tensorboard_has_every_scalar_under_a_readable_name(tmp_path: Path) -> None:
    bottom, top = _bottom(), make_stage(index=1, num_stages=2)
    monitors = [StageMonitor(stage, folder=tmp_path, log_every=2) for stage in (bottom, top)]
    _learn(bottom, range(4))
    for step in range(4):
        top.handle(activation(step))
    top.handle(activation(0, training=False))
    top.handle(Drain(step=4))
    top.resume()
    for monitor in monitors:
        monitor.close()
    below, above = (_scalars(tmp_path / "tensorboard" / f"stage-{index:02}") for index in range(2))
    assert set(below) == {
        *("source/loss", "sync/cosine/activations", "sync/cosine/parameters"),
        *("sync/norm_ratio/activations", "sync/norm_ratio/parameters"),
        *("sync/projection/activations", "sync/projection/parameters"),
        *("sync/relative_error/activations", "sync/relative_error/parameters"),
        *("pipeline/staleness", "pipeline/samples_per_s"),
        *("pipeline/fresh", "pipeline/waiting", "pipeline/dropped"),
    }
    assert set(above) == {
        "loss/train",
        "loss/test",
        "accuracy/test",
        "pipeline/fresh",
        "pipeline/waiting",
        "pipeline/dropped",
        "pipeline/samples_per_s",
    }
    assert [step for step, _ in above["accuracy/test"]] == [4]
    metrics = _lines(tmp_path / "metrics" / "stage-1.jsonl")
    assert above["loss/train"][-1][1] == pytest.approx(metrics[0]["loss"], rel=1e-5)


def test_resumed_run_cuts_its_files_back_to_the_checkpoint(tmp_path: Path) -> None:
    stage = _bottom()
    monitor = StageMonitor(stage, folder=tmp_path, log_every=1)
    for step in range(6):
        _learn(stage, range(step, step + 1))
        monitor.look()
    monitor.close()
    metrics, trace = tmp_path / "metrics" / "stage-0.jsonl", tmp_path / "trace" / "stage-0.jsonl"
    whole = trace.read_text()
    with metrics.open("a") as file:
        file.write('{"step": 5, "vers')  # the process died while it wrote
    resumed = StageMonitor(_bottom(), folder=tmp_path, log_every=1, since=4)
    assert {line["step"] for line in _lines(metrics)} == {0, 1, 2, 3}
    _learn(resumed.stage, range(4, 6))
    resumed.close()
    assert [line["step"] for line in _lines(metrics)] == [0, 1, 2, 3, 5]
    assert [line["event"] for line in _lines(trace)] == [json.loads(line)["event"] for line in whole.splitlines()]


def test_waiting_share_and_status_describe_the_last_interval() -> None:
    stage = _bottom()
    monitor = StageMonitor(stage, folder=None, log_every=1)
    _learn(stage, range(1))
    assert monitor.look()
    busy_s = 1.0 + 2.0 + 0.25 + 0.5
    assert monitor.status.waiting_share == pytest.approx(0.25 / (0.25 + busy_s))
    assert monitor.status.step == 0 and monitor.status.staleness == 1.0
    assert monitor.status.source_loss is not None and monitor.status.samples_per_s > 0
    stage.recorder.waited(1e9)
    _learn(stage, range(1, 2))
    assert monitor.look() and monitor.status.waiting_share > 0.99


def test_monitor_without_a_folder_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage = _bottom()
    monitor = StageMonitor(stage, folder=None, log_every=1)
    _learn(stage, range(3))
    monitor.close()
    assert list(tmp_path.iterdir()) == []
    assert monitor.summary()["forwards"] == 3


def test_summary_of_a_stage_counts_what_it_did() -> None:
    stage = _bottom()
    monitor = StageMonitor(stage, folder=None, log_every=2)
    _learn(stage, range(4))
    monitor.close()
    summary = monitor.summary()
    expected = {"index": 0, "samples": 16, "num_parameters": 12, "updates": 4, "forwards": 4, "backwards": 4}
    assert {name: summary[name] for name in expected} == expected
    assert summary["busy_s"] == pytest.approx(4 * (1.0 + 2.0 + 0.25 + 0.5)) and summary["wait_s"] == 1.0
    assert (summary["staleness_mean"], summary["staleness_max"]) == (0.5, 1.0)
    assert 0 < summary["gradient_cosine"] <= 1 and summary["source_loss"] > 0


def test_summary_of_a_stage_that_measured_nothing_has_no_numbers_for_it() -> None:
    monitor = StageMonitor(make_stage(index=1, num_stages=2), folder=None, log_every=2)
    monitor.close()
    summary = monitor.summary()
    assert [summary[name] for name in ("staleness_mean", "staleness_max", "source_loss", "gradient_cosine")] == [
        None
    ] * 4


def test_test_results_are_not_averaged() -> None:
    stage = make_stage(index=1, num_stages=2)
    monitor = StageMonitor(stage, folder=None, log_every=2)
    for step, value in ((10, 0.5), (20, 0.75)):
        stage.recorder.measure("test_accuracy", step, value)
    monitor.close()
    assert monitor.scalars()["test_accuracy"] == 0.75


def test_what_was_taken_down_is_on_disk_before_the_run_ends(tmp_path: Path) -> None:
    """A process that is killed closes nothing."""
    stage = _bottom()
    monitor = StageMonitor(stage, folder=tmp_path, log_every=100)
    _learn(stage, range(3))
    monitor.flush()
    assert len(_lines(tmp_path / "trace" / "stage-0.jsonl")) == len("FBUL FSBUL FBUL".replace(" ", ""))
    assert len(_lines(tmp_path / "metrics" / "stage-0.jsonl")) == 1
    again = StageMonitor(_bottom(), folder=tmp_path, log_every=100, since=2)
    assert {line["step"] for line in _lines(tmp_path / "trace" / "stage-0.jsonl")} == {0, 1}
    monitor.close()
    again.close()


def test_time_is_fresh_waiting_or_for_an_output_that_was_dropped() -> None:
    stage = _bottom()
    monitor = StageMonitor(stage, folder=None, log_every=2)
    for step in range(4):
        stage.handle(activation(step))
        stage.handle(Gradient(step=step, value=None, dropped=step % 2 == 1))
        stage.recorder.waited(0.25)
        monitor.look()
    # In the last interval: two forwards, one of them for nobody, and waiting; step 3 is a sync that was not answered.
    assert monitor.status.dropped_share == pytest.approx(1.0 / (2 * 1.0 + 1 * 2.25 + 2 * 0.25), abs=0.05)
    summary = monitor.summary()
    assert summary["dropped_s"] == 2 * COSTS_S["F"]
    assert summary["staleness_counts"] == {}


def test_staleness_is_a_histogram(tmp_path: Path) -> None:
    stage = _bottom()
    monitor = StageMonitor(stage, folder=tmp_path, log_every=2)
    for step in range(6):
        _learn(stage, range(step, step + 1))
        monitor.look()
    monitor.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "stage-00"), {"histograms": 0}).Reload()
    assert len(events.Histograms("pipeline/staleness_histogram")) == 3
    assert monitor.summary()["staleness_counts"] == {"0": 3, "1": 3}
