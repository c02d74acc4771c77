"""Does the benchmark of edges still run, and is its table what was recorded?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.edges import run
from pipeline.transports.control import World
from tests.spawn import Ranks


def measure(world: World, folder: str) -> int:
    """A few messages of one size; the number of lines."""
    return len(run.measure_rank(world, run.Options(sizes=(64,), rounds=1, count=10, out=Path(folder))))


@pytest.mark.experiment
@pytest.mark.distributed
def test_every_kind_of_edge_is_measured_once(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(measure, str(tmp_path), world_size=2) == [5, 5]
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} >= {"in process", "shared", "gloo", run.RAW}
    assert all(line["median_us"] > 0 and line["p10_us"] <= line["p90_us"] for line in lines)
