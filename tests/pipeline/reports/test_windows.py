"""Is a window of a long trace found without reading all of it, and are its events those of its steps?"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.reports.reading import Run, read_run
from pipeline.reports.windows import find_first, read_window
from tests.pipeline.reports.folders import make_run, write_lines


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A trace of 3,000 steps in which the gradient of a step comes five steps later."""
    folder = make_run(tmp_path / "run")
    lines = []
    for step in range(3000):
        for operation, of in (("F", step), ("B", step - 5), *((("S", step),) if step == 2500 else ())):
            if of >= 0:
                times = {"start_s": float(step), "end_s": step + 0.5}
                lines.append({"event": f"1{operation}{of}", "step": of, "version": 0, "reach": 0, **times})
    write_lines(folder / "trace" / "stage-1.jsonl", lines)
    return read_run(folder)


@pytest.mark.parametrize("first", [0, 7, 1500, 2990])
def test_window_holds_every_operation_of_its_steps_and_no_other(run: Run, first: int) -> None:
    events = read_window(run, first=first, last=first + 4)[1]
    wanted = [("F", s) for s in range(first, first + 5)] + [("B", s) for s in range(first, first + 5) if s < 2995]
    assert sorted((event.operation, event.step) for event in events) == sorted(wanted)


def test_first_sync_after_a_step_is_found(run: Run) -> None:
    assert find_first(run, "S", stage=1, after=20) == 2500
    assert find_first(run, "S", stage=1, after=2500) is None and find_first(run, "S", stage=7, after=0) is None


def test_half_written_line_at_the_end_is_left_out(run: Run) -> None:
    path = run.folder / "trace" / "stage-1.jsonl"
    path.write_text(path.read_text() + '{"event": "1F3000", "st')
    assert max(event.step for event in read_window(run, first=2990, last=3100)[1]) == 2999
