"""Does `dni replay` say whether a run can be repeated, with words and an exit code that can be relied on?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.commands.cli import main

CONFIG = """
from dataclasses import replace

import torch
from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient
from pipeline import Config, Data, KeyedBatches


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    return Data(train=KeyedBatches(x, x[:, :3].argmax(1), batch_size=8), test=[(x, x[:, :3].argmax(1))])


def base():
    return Config(model=network, data=data, loss=nn.CrossEntropyLoss(), source=ConditionalSyntheticGradient(3),
                  sync=Bernoulli(0.2), num_stages=3, steps=20, checkpoint_every=5, arrival="ready", name="run")


def nan_in_the_loss():
    class Loss(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, h, target):
            self.calls += h.requires_grad
            return super().forward(h, target) * (float("nan") if self.calls > 12 else 1.0)

    return replace(base(), loss=Loss(reduction="sum"))
"""

Dni = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dni:
    """Runs a command in a folder with a configuration file; returns exit code, output and errors."""
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "DNI_RUN_FOLDER"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(words)
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


def test_replay_of_a_run_says_that_it_is_equal(dni: Dni) -> None:
    assert dni("train", "config.py:base")[0] == 0
    code, out, err = dni("replay", "runs/run")
    assert (code, err) == (0, "")
    replayed, equal = out.splitlines()
    assert replayed.startswith("replayed runs/run on one thread: ") and replayed.endswith(" messages")
    assert equal.startswith("equal, bit for bit: ") and " tensors of 3 stages, " in equal
    assert equal.endswith("at the checkpoints of step 10, 15, 20"), "keep_last is 3"
    code, out, _ = dni("replay", "runs/run", "--from", "10", "--until", "16")
    assert code == 0 and "at the checkpoint of step 15\n" in out
    assert out.count("not to the end of the run: stage") == 3
    code, out, _ = dni("replay", "runs/run", "--until", "3")
    assert code == 0 and "not compared: no checkpoint of a step that was replayed is left" in out


def test_weights_that_differ_or_cannot_be_compared_are_exit_code_1(dni: Dni, tmp_path: Path) -> None:
    dni("train", "config.py:base")
    with (tmp_path / "config.py").open("a") as file:
        file.write("# a comment\n")
    code, out, err = dni("replay", "runs/run")
    assert (code, err) == (1, "")
    assert "not compared: the SHA-256 of the configuration's file was " in out and "(stage 0, 1, 2)" in out
    (tmp_path / "config.py").write_text(CONFIG)
    order = tmp_path / "runs" / "run" / "order" / "stage-2.txt"
    order.write_text(order.read_text().replace("D10s\n", ""))
    code, _, err = dni("replay", "runs/run")
    assert code == 1 and err.startswith("dni: stage 2 cannot have handled its messages in the recorded order: it ")
    assert dni("replay", "runs/run", "--until", "9")[0] == 0


def test_failure_comes_again_and_the_debugger_halts_before_it(dni: Dni, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dni("train", "config.py:nan_in_the_loss")[0] == 1
    code, out, err = dni("replay", "runs/run")
    assert code == 1 and err.startswith("dni: stage 2 failed at step 11 in backward: NotFinite: the loss is nan")
    assert "equal, bit for bit" in out and "the run itself had failed: stage 2 failed at step 11" in out

    halts = []

    def halt() -> None:
        there = sys._getframe(1).f_locals
        replay = there["replay"] if "replay" in there else there["self"]
        halts.append([stage.version for stage in replay.stages])

    monkeypatch.setattr(sys, "breakpointhook", halt)
    assert dni("replay", "runs/run", "--until", "7", "--debug")[0] == 1
    before_step, before_failure = halts
    assert before_step == [7, 7, 7]
    assert before_failure[2] == 11 and min(before_failure) >= 11, "nothing but the message that failed is left"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/other"], "runs/other is not a run's folder"),
        (["runs/run", "--from", "7"], "runs/run cannot be replayed from step 7"),
        (["runs/run", "--from", "5"], "has no checkpoint of step 5 any more"),
        (["runs/run", "--debug"], "runs/run has not failed. Say before which step it is to halt: --until N"),
        (["runs/run", "--from", "10", "--until", "10"], "--until must be after --from, got 10 and 10"),
    ],
)
def test_mistake_in_the_call_is_exit_code_2_and_one_message(words: list[str], message: str, dni: Dni) -> None:
    dni("train", "config.py:base")
    code, out, err = dni("replay", *words)
    assert (code, out) == (2, "") and err.startswith("dni: ") and message in err


def test_record_is_of_this_machine_and_configuration(dni: Dni, tmp_path: Path) -> None:
    dni("train", "config.py:base")
    start = (tmp_path / "runs" / "run" / "order" / "stage-1.txt").read_text().splitlines()[0]
    found = json.loads(start.removeprefix("# "))
    assert (found["since"], found["device"], found["num_threads"]) == (0, "cpu", 1)
    assert found["torch_version"] == torch.__version__
    assert found["config"] == json.loads((tmp_path / "runs" / "run" / "config.json").read_text())["sha256"]


def test_help_has_examples(dni: Dni) -> None:
    code, out, _ = dni("replay", "--help")
    assert code == 0 and "dni replay runs/quickstart-20260101-120000 --from 500 --until 1000" in out
