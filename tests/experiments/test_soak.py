"""Does the soak still run, and does its README say no more than its results?"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from experiments.soak import run
from pipeline import prepare, run_simulated

LOSS = 1.377133
"""Of the second step."""


@pytest.mark.experiment
def test_soak_trains_two_steps_with_the_losses_written_down() -> None:
    losses: list[float | None] = []
    config = replace(run.config(run.Options(messages=12)), steps=2, executor="simulate", log_every=1)
    run_simulated(prepare(config), on_status=lambda statuses: losses.append(statuses[-1].loss))
    assert losses[-1] == pytest.approx(LOSS, rel=1e-4)


def test_run_has_enough_steps_for_its_messages() -> None:
    assert run.config(run.Options(messages=500_000, ranks=4)).steps * 6 >= 500_000


def test_growth_is_that_of_the_line_through_the_samples(tmp_path: Path) -> None:
    now = run.Sample.now()
    assert now.rss_mib > 10 and now.threads >= 1 and now.descriptors >= 3
    during = [asdict(replace(now, time_s=float(second), rss_mib=100.0 + second)) for second in range(50)]
    told = {"rank": 0, "messages": 1000, "steps": 100, "wall_s": 50.0, "before": asdict(now), "after": asdict(now)}
    line = run.record({**told, "during": during}, run.Options(out=tmp_path / "results.jsonl"))
    assert line["growth_mib_per_million_messages"] == pytest.approx(50_000)
    assert (line["rss_warm_mib"], line["rss_end_mib"]) == (110.0, 149.0)
    assert json.loads((tmp_path / "results.jsonl").read_text())["rank"] == 0
