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

from pipeline import prepare, run_simulated
from pipeline.configuration.loading import find_config
from pipeline.records.checkpoint import latest
from tests.reference import assert_bit_equal

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

_FAILING = """
from dataclasses import replace

from torch import nn

from pipeline.configuration.quickstart import quickstart
from tests.faults import FailAt


def failing():
    config = quickstart()

    def model():
        network = config.model()
        network[4] = nn.Sequential(network[4], FailAt(25))
        return network

    return replace(config, model=model, steps=60, checkpoint_every=10)
"""

_RESTARTED = """
import os
from dataclasses import replace

from torch import nn

from pipeline.configuration.quickstart import quickstart
from tests.faults import FailAt

NEVER = 1_000_000
ATTEMPT = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "-1"))


def faulty(faults, **settings):
    config = quickstart()
    block, step, fault = faults.get(ATTEMPT, (0, NEVER, "raise"))

    def model():
        layers = list(config.model())
        steps = [step if index == block else NEVER for index in range(len(layers))]
        return nn.Sequential(*(nn.Sequential(FailAt(s, fault), layer) for s, layer in zip(steps, layers)))

    return replace(config, model=model, steps=30, checkpoint_every=10, arrival="fixed", num_ranks=2, **settings)


def undisturbed():
    return faulty({})


def killed_twice():  # rank 1 before there is a checkpoint, then rank 0
    return faulty({0: (6, 5, "kill"), 1: (0, 15, "kill")}, max_restarts=2)


def killed_once():
    return faulty({0: (0, 15, "kill")})


def terminated():
    return faulty({0: (0, 15, "terminate")}, max_restarts=1)
"""


def command(*words: str) -> list[str]:
    """`dni` with these words, with the interpreter that runs the tests."""
    return [sys.executable, "-m", "pipeline", *words]


def torchrun(*words: str) -> list[str]:
    """The same under torchrun, as a user would start it."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return [*launcher, "--max-restarts=1", "-m", "pipeline", *words]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return run_to_end(command(*words), cwd=cwd)


def run_to_end(words: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program; the repository is importable, for the scripted faults."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of the run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "config.py").write_text(_RESTARTED)
    return run_simulated(prepare(find_config(f"{folder / 'config.py'}:undisturbed"))).export()


def saved_weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint, by their global names."""
    folder, manifest = latest(run / "checkpoints")
    states = [torch.load(folder / f"stage-{i}.pt", weights_only=True) for i in range(manifest.num_stages)]
    return {name: value for state in states for name, value in state["module"].items()}


def test_killed_run_starts_again_by_itself_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    (tmp_path / "config.py").write_text(_RESTARTED)
    ended = run("train", "config.py:killed_twice", "--name", "killed", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "attempt 2: goes on from the beginning, for there is no whole checkpoint, in runs/killed" in ended.stdout
    assert "attempt 3: goes on at step 10 in runs/killed" in ended.stdout
    assert "rank 0: stopped, because on rank 1 the process of stages 2 to 3 has died or was killed" in ended.stderr
    assert "Traceback" not in ended.stderr
    folder = tmp_path / "runs" / "killed"
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["restarts"], summary["resumed_at"]) == ("finished", 2, 10)
    assert not (folder / "error.json").exists()
    assert [json.loads((folder / f"error-{number}.json").read_text())["rank"] for number in (0, 1)] == [1, 0]
    assert_bit_equal(saved_weights(folder), undisturbed)


def test_run_under_the_users_own_torchrun_finds_its_folder_again(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    (tmp_path / "config.py").write_text(_RESTARTED)
    ended = run_to_end(torchrun("train", "config.py:killed_once", "--name", "mine"), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    summary = json.loads((tmp_path / "runs" / "mine" / "summary.json").read_text())
    assert (summary["status"], summary["restarts"], summary["resumed_at"]) == ("finished", 1, 10)
    assert_bit_equal(saved_weights(tmp_path / "runs" / "mine"), undisturbed)


def test_rank_that_is_told_to_end_interrupts_the_run_which_is_not_started_again(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(_RESTARTED)
    ended = run("train", "config.py:terminated", "--steps", "1000000", "--name", "ended", cwd=tmp_path)
    assert ended.returncode == 1
    assert "attempt 2" not in ended.stdout and "dni resume runs/ended" in ended.stdout
    summary = json.loads((tmp_path / "runs" / "ended" / "summary.json").read_text())
    assert (summary["status"], summary["restarts"]) == ("interrupted", 0)
