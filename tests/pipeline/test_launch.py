"""Does the command line start, fail and stop real processes under torchrun as it promises?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.checkpoint import latest

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

_FAILING = """
from dataclasses import replace

from torch import nn

from pipeline.quickstart import quickstart
from tests.faults import FailAt


def failing():
    config = quickstart()

    def model():
        network = config.model()
        network[4] = nn.Sequential(network[4], FailAt(25))
        return network

    return replace(config, model=model, steps=60, checkpoint_every=10)
"""


def command(*words: str) -> list[str]:
    """`dni` with these words, with the interpreter that runs the tests."""
    return [sys.executable, "-m", "pipeline", *words]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the repository is importable, for the scripted faults."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(command(*words), cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_train_runs_the_main_job_in_four_processes_and_leaves_a_whole_run_folder(tmp_path: Path) -> None:
    ended = run("train", "quickstart", "--steps", "60", "--name", "main", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "runs" / "main"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["world_size"], summary["steps"]) == ("finished", 4, 60)
    assert "tensorboard --logdir" in ended.stdout
    for index in range(4):
        assert (folder / "metrics" / f"stage-{index}.jsonl").read_text()
        assert list((folder / "tensorboard" / f"stage-{index}").iterdir())
        lines = (folder / "trace" / f"stage-{index}.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events[0] == f"{index}F0" and f"{index}B59" in events
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert latest(folder / "checkpoints")[1].step == 60


def test_stage_that_raises_ends_every_rank_with_its_name_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(_FAILING)
    ended = run("train", "config.py:failing", "--num-ranks", "2", "--name", "bad", cwd=tmp_path)
    assert ended.returncode == 1
    for rank in (0, 1):
        expected = f"rank {rank}: stopped, because on rank 0 stage 1 failed at step 25 in forward: ArithmeticError"
        assert expected in ended.stderr
    assert "dni resume runs/bad" in ended.stderr
    assert "scripted fault" in json.loads((tmp_path / "runs" / "bad" / "error.json").read_text())["traceback"]
    assert latest(tmp_path / "runs" / "bad" / "checkpoints")[1].step == 20


def test_signal_drains_and_saves_and_the_run_can_go_on(tmp_path: Path) -> None:
    words = ("train", "quickstart", "--steps", "1000000", "--num-ranks", "2", "--name", "long", "--log-every", "5")
    folder = tmp_path / "runs" / "long"
    with subprocess.Popen(command(*words), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        wait_until_trained(folder / "metrics" / "stage-3.jsonl")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "dni resume runs/long" in output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    stopped_at = latest(folder / "checkpoints")[1].step
    assert stopped_at == summary["steps"] > 0
    ended = run("resume", "runs/long", "--steps", str(stopped_at + 10), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((folder / "summary.json").read_text())["resumed_at"] == stopped_at


def wait_until_trained(metrics: Path) -> None:
    """Return once the file has a line."""
    while not metrics.exists() or not metrics.read_text():
        time.sleep(0.05)
