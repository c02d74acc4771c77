"""Does the terminal show what is there, in 80 columns, with nothing cut off?"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from dni import (
    BlockCadence,
    Critic,
    DirectFeedbackAlignment,
    Layer,
    Periodic,
    Quadrants,
    RandomCadence,
    SyntheticGradient,
    TopOrAll,
    TrueGradient,
)
from pipeline import Config, Data, KeyedBatches, prepare, run_simulated
from pipeline.commands.display import LiveDisplay, _stage_table, plan_tables, summary_table
from pipeline.configuration.config import Sgd
from pipeline.configuration.prepared import Prepared
from pipeline.records.monitor import StageStatus

X, TARGET = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
STATUSES = [StageStatus(stage=0, step=1234, source_loss=0.5), StageStatus(stage=1, step=1200, loss=0.25)]


def _prepared(**more: Any) -> Prepared:
    return prepare(
        Config(
            model=more.pop("model", lambda: [nn.Linear(4, 5), nn.Linear(5, 3)]),
            data=lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8), test=[(X, TARGET)]),
            loss=nn.CrossEntropyLoss(),
            source=more.pop("source", SyntheticGradient()),
            steps=6,
            **more,
        )
    )


def _printed(what: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("arrival", "bound"), [("fixed", "delay"), ("ready", "max in flight")])
def test_plan_shows_every_stage_and_boundary(arrival: str, bound: str) -> None:
    text = _printed(plan_tables(_prepared(arrival=arrival, executor="distributed"), [0, 1]))
    assert "…" not in text
    for word in ("(8, 5)", "SyntheticGradient", "LossGradient", "0-1", bound, "shared (one host)"):
        assert word in text
    over_gloo = plan_tables(_prepared(arrival=arrival, executor="distributed", transport=("gloo",)), [0, 1])
    assert "edges, if all ranks are on this host: gloo (as set)" in _printed(over_gloo)
    alone = _printed(plan_tables(_prepared(), [0, 0]))
    assert "in process" in alone and "this host" not in alone


def test_plan_shows_what_the_last_stage_sends_straight_to_whom() -> None:
    model = [nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)]
    settings = {"model": lambda: model, "source": (DirectFeedbackAlignment(3), Critic(3)), "executor": "distributed"}
    text = _printed(plan_tables(_prepared(**settings), [0, 0, 1]))
    assert "2-0: error at the output, 0.09 KiB (shared)" in text
    assert "2-1: loss at the output, 0.03 KiB (shared)" in text
    assert "told by the last stage" not in _printed(plan_tables(_prepared(), [0, 0]))


def test_plan_shows_where_every_stage_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "rank 1" in _printed(plan_tables(_prepared(executor="distributed"), [0, 1]))
    assert "simulated" in _printed(plan_tables(_prepared(executor="simulate"), [0, 0]))
    text = _printed(plan_tables(_prepared(executor="threads", device="cpu"), [0, 0]))
    assert "thread 0 " in text and "thread 1 " in text and "in process" in text and "…" not in text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    text = _printed(_stage_table(_prepared(executor="threads"), [0, 0]))
    assert "thread 0, cuda:0" in text and "thread 1, cuda:1" in text


def test_plan_for_threads_says_which_stages_take_turns_to_draw() -> None:
    model = [nn.Linear(4, 5), nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 3))]
    settings = {"model": lambda: model, "executor": "threads"}
    assert "take turns to: 1" in _printed(plan_tables(_prepared(**settings), [0, 0]))
    assert "take turns" not in _printed(plan_tables(_prepared(executor="threads"), [0, 0]))
    assert "take turns" not in _printed(plan_tables(_prepared(model=lambda: model), [0, 0]))


def test_summary_shows_result_folder_and_how_to_open_tensorboard() -> None:
    summary = run_simulated(_prepared()).summary
    text = _printed(summary_table(summary, Path("runs/x")))
    assert "…" not in text
    for word in ("finished: 6 steps, 2 stages", "test accuracy", "runs/x", "tensorboard --logdir runs/x/tensorboard"):
        assert word in text
    assert "dni resume" not in text
    assert "dni resume runs/x" in _printed(summary_table({**summary, "status": "interrupted"}, Path("runs/x")))


def test_display_draws_a_row_per_stage_on_a_terminal() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=90)
    with LiveDisplay(console, steps=2000) as display:
        display.show(STATUSES)
    assert "1,234" in file.getvalue() and "0.25" in file.getvalue() and "1200/2000" in file.getvalue()


def test_display_says_little_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    now_s = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now_s[0])
    with LiveDisplay(Console(file=file, width=90), steps=2000) as display:
        for _ in range(25):
            now_s[0] += 1.0
            display.show(STATUSES)
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].startswith("step 1,200: loss 0.25")


def test_display_says_which_rank_is_silent_and_which_stage_is_stuck() -> None:
    busy = StageStatus(stage=0, step=17, busy="busy in forward of step 17 for 12 s")
    silent = [StageStatus(stage=stage, rank=1, silent_s=3.2) for stage in (1, 2)]
    file = io.StringIO()
    with LiveDisplay(Console(file=file, force_terminal=True, width=90), steps=2000) as display:
        display.show([busy, *silent])
    assert "stage 0 is busy in forward of step 17 for 12 s" in file.getvalue()
    assert "rank 1 (stage 1, 2) has been silent for 3 s" in file.getvalue()


def test_display_says_once_that_a_rank_is_silent_and_once_that_it_is_heard_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    heard, silent = StageStatus(stage=1, rank=1), StageStatus(stage=1, rank=1, silent_s=1.1)
    with LiveDisplay(Console(file=file, width=90), steps=2000) as display:
        for status in (heard, silent, silent, heard, heard):
            display.show([StageStatus(stage=0), status])
    assert file.getvalue().splitlines() == ["rank 1 (stage 1) has been silent for 1 s", "rank 1 is heard again"]


def test_plan_shows_every_block_with_its_cadence() -> None:
    chosen = (BlockCadence(Quadrants("0.weight"), RandomCadence(0.5)), BlockCadence(Layer("1"), Periodic(3)))
    text = _printed(plan_tables(_prepared(blocks=chosen, rate_rule="sqrt"), [0, 0]))
    for word in (
        "0.weight[0:2,0:2]",
        "RandomCadence(rate=0.5)",
        "Periodic(period=3)",
        "rest",
        "sqrt(k) times",
    ):
        assert word in text
    assert "…" not in text and "blocks;" not in _printed(plan_tables(_prepared(), [0, 0]))


def test_plan_shows_how_often_each_layer_learns() -> None:
    def model() -> list[nn.Module]:
        return [nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), nn.Linear(5, 3)]

    policy = TopOrAll(0.0, top=1)
    blocks = (BlockCadence(Layer("0.0"), Periodic(2), drifts=True),)
    optimizer = Sgd(momentum=0.9)
    run = _prepared(model=model, source=TrueGradient(), participation=policy, blocks=blocks, optimizer=optimizer)
    text = _printed(plan_tables(run, [0, 0]))
    for word in (
        "participation TopOrAll(probability=0.0, top=1,",
        "pulls back: 0%, 100%",
        "1 BatchNorm layer(s), at steps at which they pause: follow",
        "0% of steps",
        "100% of steps",
        "Periodic(period=2), drifts",
    ):
        assert word in text
    assert "…" not in text
