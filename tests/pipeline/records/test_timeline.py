"""Does the merged picture open in a trace viewer, with every event of every stage?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.records import timeline
from pipeline.records.timeline import write_timeline


def _write(folder: Path, stage: int, events: list[str]) -> None:
    (folder / "trace").mkdir(exist_ok=True)
    lines = [
        json.dumps(
            {"event": f"{stage}{e}", "step": int(e[1:]), "start_s": 1.5 + i, "end_s": 2.0 + i, "version": 1, "reach": 2}
        )
        for i, e in enumerate(events)
    ]
    (folder / "trace" / f"stage-{stage}.jsonl").write_text("".join(line + "\n" for line in lines))


def test_every_stage_is_a_row_with_its_events(tmp_path: Path) -> None:
    _write(tmp_path, 0, ["F0", "S0", "B0", "U0"])
    _write(tmp_path, 10, ["F0", "D0"])
    _write(tmp_path, 2, ["F0", "B0", "L0"])
    path = write_timeline(tmp_path)
    assert path == tmp_path / "trace.json"
    events = json.loads(path.read_text())["traceEvents"]
    rows = [(e["tid"], e["args"]["name"]) for e in events if e["ph"] == "M"]
    assert rows == [(0, "stage 0"), (2, "stage 2"), (10, "stage 10")]
    assert [e["name"] for e in events if e["ph"] != "M" and e["tid"] == 10] == ["10F0", "10D0"]
    forward = next(e for e in events if e["name"] == "2F0")
    assert (forward["ph"], forward["ts"], forward["dur"], forward["cat"]) == ("X", 1.5e6, 0.5e6, "forward")
    assert forward["args"] == {"step": 0, "version": 1, "reach": 2}
    assert {e["ph"] for e in events if e["name"] in ("0S0", "10D0")} == {"i"}


def test_long_run_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MOST_EVENTS", 6)
    for stage in range(2):
        _write(tmp_path, stage, [f"F{step}" for step in range(9)])
    content = json.loads(write_timeline(tmp_path).read_text())
    for stage in range(2):
        names = [e["name"] for e in content["traceEvents"] if e["ph"] == "X" and e["tid"] == stage]
        assert names == [f"{stage}F{step}" for step in range(3)]
    assert content["otherData"] == {"at most this many events of each stage": 3}


def test_run_without_traces_gives_an_empty_picture(tmp_path: Path) -> None:
    assert json.loads(write_timeline(tmp_path).read_text())["traceEvents"] == []
