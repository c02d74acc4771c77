"""Is everything read that can be, and said what cannot?"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigurationError
from pipeline.reports.reading import read_run
from tests.pipeline.reports.folders import STEPS, make_run


def test_whole_run_is_read_without_a_note(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert run.status == "finished" and run.notes == [] and run.num_stages == 2
    loss = run.of("loss")
    assert list(loss) == [1] and list(loss[1].steps) == list(STEPS) and loss[1].last == 1.1
    assert list(run.of("version")[1].values) == [10, 20, 30, 40], "a test's line is written later, under its own step"
    assert run.samples_per_step == 8.0 and run.start_s == 999.0
    assert [(change.step, change.stage) for change in run.changes] == [(20, 0)]


def test_run_that_goes_on_is_reported_as_far_as_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", summary=False)
    metrics = folder / "metrics" / "stage-1.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:3]) + lines[3][:20])
    run = read_run(folder)
    assert run.status == "unfinished" and len(run.of("loss")[1].steps) == 3
    assert "the last line of metrics/stage-1.jsonl is not whole and is left out" in run.notes
    assert any("there is no summary.json: the run goes on, or was killed" in said for said in run.notes)
    assert run.start_s == 1000.0


def test_damaged_lines_and_files_are_left_out_and_noted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    metrics = folder / "metrics" / "stage-0.jsonl"
    metrics.write_text("{]\n[1]\n" + metrics.read_text())
    (folder / "summary.json").write_text('{"status": "fin')
    (folder / "findings").mkdir()
    (folder / "findings" / "hessian.jsonl").write_text('{"kind": "poem"}\n')
    run = read_run(folder)
    assert "2 damaged lines of metrics/stage-0.jsonl are left out" in run.notes
    assert any(said.startswith("summary.json cannot be read") for said in run.notes)
    assert any("must be a finding" in said for said in run.notes)
    np.testing.assert_allclose(run.of("gradient_cosine")[0].values, [0.1, 0.2, 0.3, 0.4])


def test_failed_run_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", summary=False)
    (folder / "error.json").write_text(json.dumps({"rank": 0, "message": "stage 1 failed", "traceback": "..."}))
    run = read_run(folder)
    assert run.status == "failed" and run.error["message"] == "stage 1 failed"


def test_summary_of_an_earlier_session_is_not_taken_for_that_of_a_resumed_run(tmp_path: Path) -> None:
    """In 0.3, a run that went on after it was resumed, or failed then, was finished, with its old numbers."""
    folder = make_run(tmp_path / "run")
    with (folder / "metrics" / "stage-1.jsonl").open("a") as file:
        file.write(json.dumps({"step": 49, "version": 50, "time": 1010.0, "loss": 0.7}) + "\n")
    run = read_run(folder)
    assert run.status == "unfinished" and run.summary == {} and len(run.notes) == 1
    assert run.notes[0].startswith("summary.json is of an earlier session, which ended at step 40, and is left out: ")
    (folder / "error.json").write_text(json.dumps({"rank": 0, "message": "stage 1 failed"}))
    run = read_run(folder)
    assert run.status == "failed" and run.summary == {}
    assert run.notes == ["summary.json is of an earlier session, which ended at step 40, and is left out"]


def test_failure_counts_more_than_the_summary_before_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "error.json").write_text(json.dumps({"rank": 0, "message": "stage 1 failed"}))
    assert read_run(folder).status == "failed"


def test_missing_parts_are_noted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for path in (folder / "trace").iterdir():
        path.unlink()
    (folder / "trace").rmdir()
    assert read_run(folder).notes == ["there is no trace"]


def test_folder_that_is_no_run_is_refused_with_what_to_do(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "one")
    with pytest.raises(
        ConfigurationError, match=r"not a run's folder.*It holds 1 runs; name those: dni report .*/runs/\*"
    ):
        read_run(tmp_path / "runs")
    with pytest.raises(ConfigurationError, match="there is no folder"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "runs" / "one" / "config.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"config.json cannot be read"):
        read_run(tmp_path / "runs" / "one")
