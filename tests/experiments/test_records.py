"""Is what was measured read as it was written, and never lost?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records import append_line, append_record, grouped, newest, read_lines, read_records


@dataclass(frozen=True, kw_only=True)
class Run:
    row: str
    seed: int
    points: tuple[float, ...] = ()


def test_records_are_appended_and_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert read_lines(path) == read_records(Run, path) == []
    append_line({"row": "b", "seed": 1, "points": [0.1, 2]}, path)
    append_record(Run(row="a", seed=0, points=(0.1, 1e-7)), path)
    assert path.read_text() == (
        '{"row": "b", "seed": 1, "points": [0.1, 2]}\n{"row": "a", "seed": 0, "points": [0.1, 1e-07]}\n'
    )
    assert [run.row for run in read_records(Run, path)] == ["b", "a"]

    def made(**line: Any) -> Run:
        return Run(**line | {"points": tuple(line["points"])})

    assert read_records(made, path)[1] == Run(row="a", seed=0, points=(0.1, 1e-7))


def test_newest_record_of_each_key_counts_and_groups_keep_the_order() -> None:
    runs = [
        Run(row=row, seed=seed, points=(n,)) for n, (row, seed) in enumerate([("b", 1), ("a", 2), ("b", 0), ("b", 1)])
    ]
    found = newest(runs, lambda run: (run.row, run.seed))
    assert [(run.row, run.seed, run.points[0]) for run in found] == [("a", 2, 1), ("b", 0, 2), ("b", 1, 3)]
    assert grouped(runs, lambda run: run.row) == {"b": [runs[0], runs[2], runs[3]], "a": [runs[1]]}
