"""Do the commands show the plan of a run, and afterwards where the time of its stages went?"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from pipeline import KeyedBatches
from pipeline.commands.bench import show_plan, show_times
from pipeline.configuration.config import Config, Data
from pipeline.configuration.run import prepare
from pipeline.executors.training import run_simulated
from pipeline.records.shares import draw_shares, read_shares
from tests.pipeline.records.boards import Boards


def _config() -> Config:
    x = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    return Config(
        model=lambda: [nn.Linear(5, 4), nn.Linear(4, 3)],
        data=lambda: Data(train=KeyedBatches(x, x[:, :3].argmax(1), batch_size=4)),
        loss=nn.CrossEntropyLoss(),
        steps=12,
        log_every=2,
        stash="recompute",
    )


def test_plan_and_times_of_a_run_are_there_once_however_often_they_are_shown(tmp_path: Path) -> None:
    prepared = prepare(_config())
    for _ in range(2):
        show_plan(tmp_path, prepared, [0, 0])
    run_simulated(prepared, folder=tmp_path)
    for _ in range(2):
        show_times(tmp_path)
    boards = Boards(tmp_path)
    ((_, plan),) = boards.texts("run", "run/plan")
    assert "| stage | place | params |" in " ".join(plan.split()) and "| 0-1 |" in " ".join(plan.split())
    images = boards.all["run"]
    assert {tag: [each.step for each in images.Images(tag)] for tag in images.Tags()["images"]} == {
        "timeline/start": [0],
        "timeline/middle": [6],
        "time/shares": [11],
    }
    ((_, how),) = boards.texts("run", "timeline/how_to_open")
    assert "trace.json" in how and "4 microbatches" in how and "ui.perfetto.dev" in how
    trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {"forward", "forward again", "backward", "update"} == {each["cat"] for each in trace if each["ph"] == "X"}


def test_times_of_a_run_that_did_nothing_are_but_a_text(tmp_path: Path) -> None:
    show_times(tmp_path)
    assert Boards(tmp_path).all["run"].Tags()["images"] == []


def test_shares_of_a_run_that_still_goes_on_are_drawn_as_far_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    line = {"step": 5, "fresh_share": 0.5, "waiting_share": 0.25, "dropped_share": 0.25}
    for stage in range(11):
        (tmp_path / "metrics" / f"stage-{stage}.jsonl").write_text(json.dumps(line) + '\n{"step": 7, "fre')
    shares = read_shares(tmp_path)
    assert list(shares) == list(range(11)) and [each["step"] for each in shares[10]] == [5]
    assert len(draw_shares(shares).axes[0].get_yticks()) == 11
