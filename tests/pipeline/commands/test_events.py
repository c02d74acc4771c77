"""What does a user see of events: before the run, in its folder, and in the exported network?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pipeline
from pipeline.commands.cli import main

CONFIG = """
from dataclasses import replace

import torch
from torch import nn

from dni import (At, Attach, Component, ConditionalSyntheticGradient, Count, Event, EverySteps, Grow, LinearRamp,
                 OnPlateau, PruneUnits, PruneWeights, Share)
from pipeline import Config, Data, KeyedBatches


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    target = x[:, :3].argmax(1)
    return Data(train=KeyedBatches(x, target, batch_size=8), test=[(x, target)])


def base():
    events = (
        Event(At(4), PruneUnits(layers=("0",), amount=Count(3))),
        Event(At(9), Grow(layers=("3",), amount=Count(2), alpha=1.0, ramp=LinearRamp(num_steps=30)), name="widen top"),
        Event(EverySteps(6, first=8), PruneWeights(layers=("3",), amount=Share(0.25))),
        Event(At(16), Attach(edit=Component(layer="5", units=2))),
        Event(OnPlateau(patience=19), PruneUnits(layers=("3",), amount=Count(1)), name="stalled"),
    )
    return Config(model=network, data=data, loss=nn.CrossEntropyLoss(), source=ConditionalSyntheticGradient(3),
                  num_stages=3, steps=20, checkpoint_every=10, log_every=5, events=events, name="mine")


def pruned_to_nothing():
    event = Event(EverySteps(4), PruneUnits(layers=("0",), amount=Count(3)), name="greedy")
    return replace(base(), events=(event,))


def of_a_layer_that_is_not_there():
    return replace(base(), events=(Event(At(4), PruneUnits(layers=("7",), amount=Count(3))),))


def after_the_end():
    return replace(base(), events=(Event(At(20), PruneUnits(layers=("0",), amount=Count(3))),))


def of_the_output():
    return replace(base(), events=(Event(At(4), Grow(layers=("5",), amount=Count(1))),))
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a folder with a configuration file; returns exit code, output and errors."""
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("RANK", "WORLD_SIZE", "DNI_RUN_FOLDER"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def _rows(text: str) -> list[list[str]]:
    """The cells of the rows of all tables."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_plan_shows_when_what_happens_to_which_stage_and_its_sizes(dni: Run, tmp_path: Path) -> None:
    code, out, err = dni("plan", "config.py:base")
    assert code == 0 and err == "" and not (tmp_path / "runs").exists()
    assert "events, tried out on copies with random gradients; kFLOP of a sample's forward" in out
    rows = _rows(out)
    assert ["4", "0", "prune units: prune 3 of 8 units of 0 (magnitude)", "56 > 35", "0.1 > 0.0"] in rows
    assert ["4", "1", "prune units: follows stage 0", "72 > 48", "0.1"] in rows
    assert ["8", "1", "prune weights: prune 10 of 40 weights in 1 tensors (magnitude)", "48", "0.1"] in rows
    assert any(row[:2] == ["9", "1"] and row[2].startswith("widen top: grow") and row[3] == "48 > 60" for row in rows)
    assert any(row[:2] == ["16", "2"] and "attach a component of 2 relu units beside 5" in row[2] for row in rows)
    assert any(row[:2] == ["?", "1"] and row[2].startswith("stalled: prune 1 of 10 units of 3") for row in rows)
    lines = [line for line in out.splitlines() if line.startswith("event ")]
    assert lines[0] == "event prune units: At(4), once, at step 4"
    assert lines[2] == "event prune weights: EverySteps(period=6, first=8, last=None), 2 times, first at step 8"
    assert lines[4].startswith("event stalled: OnPlateau(patience=19") and lines[4].endswith("when it comes to it")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pruned_to_nothing", ("'greedy' at step 11 cannot be carried out in stage 0", "pruned to nothing")),
        ("of_a_layer_that_is_not_there", ("event 'prune units': there is no layer '7'", "0, 1, 3, 5")),
        ("after_the_end", ("event 'prune units'", "must lie within the run, whose 20 steps end with step 19, got 20")),
        ("of_the_output", ("the 3 units of 5 are the network's output", "Choose a hidden layer")),
    ],
)
@pytest.mark.parametrize("command", ["plan", "train"])
def test_impossible_event_is_one_message_and_nothing_is_started(
    dni: Run, tmp_path: Path, command: str, name: str, expected: tuple[str, ...]
) -> None:
    code, out, err = dni(command, f"config.py:{name}")
    assert code == 2 and "Traceback" not in out + err and out == ""
    assert err.startswith("dni: ") and err.count("\n") == 1
    assert [text for text in expected if text not in err] == [], err
    assert not (tmp_path / "runs").exists()


def _scalars(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in events.Scalars(tag)]


def test_train_writes_down_what_happened_and_the_export_is_the_network_it_has_become(dni: Run, tmp_path: Path) -> None:
    code, out, err = dni("train", "config.py:base")
    assert code == 0 and err == "" and "finished: 20 steps" in out
    run = tmp_path / "runs" / "mine"
    summary = json.loads((run / "summary.json").read_text())
    changes = [stage["changes"] for stage in summary["stages"]]
    assert changes[0] == {"prune units": 1}
    assert changes[1] == {"prune units": 1, "widen top": 1, "prune weights": 2}
    assert changes[2] == {"widen top": 1, "attach": 1}
    lines = [json.loads(line) for line in (run / "events" / "stage-1.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 9, 14] and {line["stage"] for line in lines} == {1}
    assert lines[0]["change"] == "prune units: follows stage 0"
    assert lines[1]["change"] == "prune weights: prune 10 of 40 weights in 1 tensors (magnitude)"
    sizes = [stage["num_parameters"] for stage in summary["stages"]]
    assert sizes == [4 * 5 + 5 + 10, 5 * 10 + 10, 10 * 3 + 3 + 2 * 10 + 2 + 2 * 3]
    bottom, middle, top = (
        EventAccumulator(str(run / "tensorboard" / f"stage-{index:02}")).Reload() for index in range(3)
    )
    assert _scalars(bottom, "width/0") == [(0, 8.0), (4, 5.0)]
    assert _scalars(middle, "width/3")[-1] == (14, 10.0)
    assert [value for _, value in _scalars(middle, "density/3.weight")] == pytest.approx([0.75, 0.8, 0.6])
    assert _scalars(bottom, "structure/parameters") == [(0, 56.0), (4, 35.0)]
    assert _scalars(bottom, "structure/mflop_per_sample")[-1] == (4, pytest.approx(2 * 4 * 5 / 1e6))
    assert "structure/gate/widen top" in top.Tags()["scalars"]
    (texts,) = [tag for tag in middle.Tags()["tensors"] if "structure/changes" in tag]
    assert [each.step for each in middle.Tensors(texts)] == [4, 8, 9, 14]
    assert "2C16" in (run / "trace" / "stage-2.jsonl").read_text()

    code, out, err = dni("export", "runs/mine", "--out", "network.pt")
    assert code == 0 and err == "" and "step 20" in out
    space: dict[str, Any] = {}
    exec(CONFIG, space)
    model: torch.nn.Sequential = space["network"]()
    pipeline.load(model, tmp_path / "network.pt")
    assert [model[index].out_features for index in (0, 3)] == [5, 10]  # type: ignore[union-attr]
    ((x, target),) = space["data"]().test
    loss = torch.nn.CrossEntropyLoss()(model.eval()(x), target).item()
    assert loss == pytest.approx(summary["test_loss"], rel=1e-5)

    code, _, err = dni("resume", "runs/mine", "--steps", "24")
    assert code == 0 and err == "", err
    code, out, err = dni("replay", "runs/mine")
    assert code == 0, out + err
