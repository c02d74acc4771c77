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
import torch
from tensorboard.plugins.hparams import api_pb2

from pipeline import prepare, run_simulated
from pipeline.configuration.loading import find_config
from pipeline.records.checkpoint import latest
from tests.pipeline.records.boards import Boards
from tests.reference import assert_bit_equal

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

_CONFIG = """
import os
from dataclasses import replace

from torch import nn

from pipeline.configuration.quickstart import quickstart
from tests.faults import FailAt

NEVER = 1_000_000
ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "-1"))
SCRIPTS = {  # in which attempt which layer fails at which of its steps, and how
    "nothing happens": {},
    "killed, then raises": {0: (6, 5, "kill"), 1: (4, 25, "raise")},  # rank 1, before there is a checkpoint
    "killed": {0: (0, 15, "kill")},  # rank 0
    "terminated": {0: (0, 15, "terminate")},
}


def scripted():
    config = quickstart()
    block, step, fault = SCRIPTS[os.environ.get("SCRIPT", "nothing happens")].get(ATTEMPT, (0, NEVER, "raise"))

    def model():
        layers = list(config.model())
        steps = [step if index == block else NEVER for index in range(len(layers))]
        return nn.Sequential(*(nn.Sequential(FailAt(s, fault), layer) for s, layer in zip(steps, layers)))

    every = {"checkpoint_every": 10, "log_every": 5}
    return replace(config, model=model, steps=40, arrival="fixed", num_ranks=2, max_restarts=1, **every)
"""


def command(*words: str) -> list[str]:
    """`dni` with these words, with the interpreter that runs the tests."""
    return [sys.executable, "-m", "pipeline", *words]


def torchrun(*words: str) -> list[str]:
    """The same under torchrun, as a user would start it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*launcher, "--max-restarts=1", "-m", "pipeline", *words]


def run(*words: str, cwd: Path, script: str = "nothing happens") -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return run_to_end(command(*words), cwd=cwd, script=script)


def run_to_end(words: list[str], *, cwd: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(words, cwd=cwd, env=environment(script), capture_output=True, text=True, check=False)


def environment(script: str) -> dict[str, str]:
    """What happens to the run is told by a variable; the repository is importable, for the scripted faults."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "SCRIPT": script}


def test_train_runs_the_main_job_in_four_processes_and_leaves_a_whole_run_folder(tmp_path: Path) -> None:
    ended = run("train", "quickstart", "--steps", "60", "--name", "main", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "runs" / "main"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["world_size"], summary["steps"]) == ("finished", 4, 60)
    assert "tensorboard --logdir" in ended.stdout
    for index in range(4):
        assert (folder / "metrics" / f"stage-{index}.jsonl").read_text()
        assert list((folder / "tensorboard" / f"stage-{index:02}").iterdir())
        lines = (folder / "trace" / f"stage-{index}.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        assert events[0] == f"{index}F0" and f"{index}B59" in events
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]
    assert latest(folder / "checkpoints")[1].step == 60
    boards = Boards(folder)
    assert set(boards.all) == {"run", *(f"stage-{index:02}" for index in range(4))}
    assert boards.session()[1] == api_pb2.STATUS_SUCCESS and len(boards.scalars("run")["result/test_accuracy"]) == 1
    for tag in ("run/plan", "run/settings", "timeline/how_to_open"):
        assert len(boards.texts("run", tag)) == 1
    assert len(boards.texts("run", "run/history")) == 2
    assert sorted(boards.all["run"].Tags()["images"]) == ["time/shares", "timeline/middle", "timeline/start"]


def test_signal_drains_and_saves_and_the_run_goes_on_until_a_rank_is_told_to_end(tmp_path: Path) -> None:
    """Neither is a failure, so nothing is started again."""
    (tmp_path / "config.py").write_text(_CONFIG)
    folder = tmp_path / "runs" / "long"
    words = command("train", "config.py:scripted", "--steps", "1000000", "--name", "long")
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment("nothing happens"), stdout=subprocess.PIPE, text=True
    ) as process:
        wait_until_trained(folder / "metrics" / "stage-3.jsonl")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "attempt 2" not in output and "dni resume runs/long" in output
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["restarts"]) == ("interrupted", 0)
    stopped_at = latest(folder / "checkpoints")[1].step
    assert stopped_at == summary["steps"] > 0

    further = ("--steps", str(stopped_at + 1000))
    ended = run("resume", "runs/long", *further, cwd=tmp_path, script="terminated")
    assert ended.returncode == 1, ended.stderr
    assert "attempt 2" not in ended.stdout and "dni resume runs/long" in ended.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["restarts"], summary["resumed_at"]) == ("interrupted", 0, stopped_at)
    assert latest(folder / "checkpoints")[1].step == summary["steps"] > stopped_at


def wait_until_trained(metrics: Path) -> None:
    """Return once the file has a line."""
    while not metrics.exists() or not metrics.read_text():
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of the run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "config.py").write_text(_CONFIG)
    return run_simulated(prepare(find_config(f"{folder / 'config.py'}:scripted"))).export()


def saved_weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint, by their global names."""
    folder, manifest = latest(run / "checkpoints")
    states = [torch.load(folder / f"stage-{i}.pt", weights_only=True) for i in range(manifest.num_stages)]
    return {name: value for state in states for name, value in state["module"].items()}


def test_failing_run_starts_again_by_itself_names_the_stage_that_ends_it_and_can_be_resumed_to_the_same_end(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    (tmp_path / "config.py").write_text(_CONFIG)
    folder = tmp_path / "runs" / "bad"
    ended = run("train", "config.py:scripted", "--name", "bad", cwd=tmp_path, script="killed, then raises")
    assert ended.returncode == 1
    assert "attempt 2: goes on from the beginning, for there is no whole checkpoint, in runs/bad" in ended.stdout
    assert "rank 0: stopped, because on rank 1 the process of stages 2 to 3 has died or was killed" in ended.stderr
    for rank in (0, 1):
        expected = f"rank {rank}: stopped, because on rank 0 stage 1 failed at step 25 in forward: ArithmeticError"
        assert expected in ended.stderr
    assert "dni resume runs/bad" in ended.stderr and "Traceback" not in ended.stderr
    assert "scripted fault" in json.loads((folder / "error.json").read_text())["traceback"]
    assert latest(folder / "checkpoints")[1].step == 20

    ended = run("resume", "runs/bad", cwd=tmp_path, script="killed")
    assert ended.returncode == 0, ended.stderr
    assert "attempt 2: goes on at step 30 in runs/bad" in ended.stdout
    assert "rank 1: stopped, because on rank 0 the process of stages 0 to 1 has died or was killed" in ended.stderr
    assert "Traceback" not in ended.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["restarts"], summary["resumed_at"]) == ("finished", 1, 30)
    assert not (folder / "error.json").exists()
    assert [json.loads((folder / f"error-{number}.json").read_text())["rank"] for number in (0, 1, 2)] == [1, 0, 0]
    assert_bit_equal(saved_weights(folder), undisturbed)


def test_run_under_the_users_own_torchrun_finds_its_folder_again(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    (tmp_path / "config.py").write_text(_CONFIG)
    words = torchrun("train", "config.py:scripted", "--name", "mine")
    ended = run_to_end(words, cwd=tmp_path, script="killed")
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
    assert (summary["status"], summary["restarts"], summary["resumed_at"]) == ("finished", 1, 10)
    assert_bit_equal(saved_weights(tmp_path / "runs" / "mine"), undisturbed)
