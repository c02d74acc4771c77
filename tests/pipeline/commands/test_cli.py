"""Does the command line do what it says, and say what is wrong in one message, before anything has started?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from pipeline.commands.cli import main

CONFIG = """
import os
import signal
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient
from pipeline import Config, Data, KeyedBatches

WIDTH = 8


def network():
    return nn.Sequential(nn.Linear(4, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
                         nn.Linear(WIDTH, 3))


def data():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    target = x[:, :3].argmax(1)
    return Data(train=KeyedBatches(x, target, batch_size=8), test=[(x, target)])


def base():
    return Config(model=network, data=data, loss=nn.CrossEntropyLoss(), source=ConditionalSyntheticGradient(3),
                  sync=Bernoulli(0.2), num_stages=3, steps=20, checkpoint_every=10, log_every=5)


def finished_only_at_the_end():
    return replace(base(), checkpoint_every=0)


def returns_a_number():
    return 3


def stages_that_do_not_chain():
    return replace(base(), model=lambda: [nn.Linear(4, 8), nn.Linear(9, 3)], num_stages=None)


def parameter_in_two_stages():
    shared = nn.Linear(8, 8)
    return replace(base(), model=lambda: nn.Sequential(nn.Linear(4, 8), shared, nn.ReLU(), shared, nn.Linear(8, 3)))


def sync_probability():
    return replace(base(), sync=Bernoulli(1.5))


def loss_that_cannot_take_the_batch():
    return replace(base(), loss=nn.MSELoss(), model=lambda: [nn.Linear(4, 8), nn.Linear(8, 3)], num_stages=None)


def too_few_classes():
    return replace(base(), source=ConditionalSyntheticGradient(2))


def too_few_outputs():
    return replace(base(), model=lambda: [nn.Linear(4, 8), nn.Linear(8, 2)], num_stages=None)


class Interrupt(nn.Module):
    # Sends this process a signal in its 8th training forward.
    calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.training and self.calls == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return x


def interrupted():
    return replace(base(), model=lambda: nn.Sequential(*network(), Interrupt()), steps=10_000, checkpoint_every=0)


def nan_in_the_loss():
    class Loss(nn.CrossEntropyLoss):
        calls = 0

        def forward(self, h, target):
            self.calls += h.requires_grad
            return super().forward(h, target) * (float("nan") if self.calls > 12 else 1.0)

    return replace(base(), loss=Loss(reduction="sum"))
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that we stand in, with a configuration file."""
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # the loader puts it there; here it is taken back
    for name in ("RANK", "WORLD_SIZE", "DNI_RUN_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def dni(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the program; exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def _only_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def _flat(text: str) -> str:
    """Without the line breaks and frames of the terminal."""
    return " ".join(text.replace("│", " ").split())


# Help


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("train", "--help"), ("plan", "--help")])
def test_help_lists_the_commands(dni: Run, words: tuple[str, ...]) -> None:
    code, out, err = dni(*words)
    assert code == 0 and err == ""
    for command in ("dni train", "dni resume", "dni replay", "dni plan", "dni export", "quickstart"):
        assert command in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("train", "quickstart", "--help"),
            ("--steps INT", "--sync.probability", "--optimizer.lr", "--checkpoint-every"),
        ),
        (("plan", "config.py:base", "--help"), ("dni plan config.py:base", "--num-stages", "(default: 20)")),
        (("resume", "--help"), ("dni resume", "--steps", "The run's folder.")),
        (("export", "--help"), ("dni export", "--out", "The run's folder.", "--best", "lowest test loss")),
    ],
)
def test_help_of_a_command_lists_its_options(dni: Run, words: tuple[str, ...], expected: tuple[str, ...]) -> None:
    code, out, err = dni(*words)
    assert code == 0 and err == ""
    assert [text for text in expected if text not in _flat(out)] == []


def test_call_without_a_command_shows_the_usage_and_fails(dni: Run, folder: Path) -> None:
    code, out, _ = dni()
    assert code == 2 and out.startswith("usage: dni COMMAND")


# Mistakes


MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown command": (("trian", "quickstart"), ("no command 'trian'", "train, resume", "export")),
    "no configuration": (("train",), ("say what to train", "quickstart")),
    "unknown configuration": (("train", "quikstart"), ("'quikstart'", "quickstart", "path/to/config.py:function")),
    "unknown option": (("train", "config.py:base", "--stepps", "3"), ("--stepps", "--help")),
    "option of another type": (("train", "config.py:base", "--steps", "many"), ("many", "int")),
    "option out of its range": (("train", "config.py:base", "--steps", "0"), ("steps must be at least 1, got 0",)),
    "missing file": (("train", "nowhere.py:base"), ("no file nowhere.py", "looked from")),
    "missing function": (("train", "config.py:bass"), ("no function 'bass'", "base", "returns_a_number")),
    "configuration that is none": (("train", "config.py:returns_a_number"), ("pipeline.Config", "int")),
    "more ranks than stages": (
        ("train", "config.py:base", "--executor", "distributed", "--num-ranks", "9"),
        ("9 ranks cannot share 3 stages", "at most 3 ranks"),
    ),
    "more stages than layers": (("train", "config.py:base", "--num-stages", "9"), ("[1, 6]", "got 9")),
    "unknown layer": (("train", "config.py:base", "--num-stages", "None", "--at", "fc"), ("'fc'", "0, 1, 2, 3, 4, 5")),
    "stages that do not chain": (
        ("train", "config.py:stages_that_do_not_chain"),
        ("stage 1 cannot take (8, 8) float32 (from stage 0)", "Stages must chain"),
    ),
    "a parameter in two stages": (
        ("train", "config.py:parameter_in_two_stages"),
        ("1.weight (stage 1) and 3.weight (stage 2)", "Untie them"),
    ),
    "sync probability in the file": (
        ("train", "config.py:sync_probability"),
        ("[0, 1], got 1.5", "config.py:sync_prob"),
    ),
    "sync probability as an option": (
        ("train", "config.py:base", "--sync.probability", "1.5"),
        ("a sync probability must lie in [0, 1], got 1.5",),
    ),
    "update probability": (("train", "config.py:base", "--update-probability", "-0.1"), ("[0, 1]", "-0.1")),
    "a batch that the loss cannot take": (
        ("train", "config.py:loss_that_cannot_take_the_batch"),
        ("the loss cannot take the first batch", "(8, 3) float32", "(8,) int64"),
    ),
    "labels outside the declared classes": (
        ("train", "config.py:too_few_classes"),
        ("declares 2 classes (0 to 1)", "from 0 to 2", "num_classes to 3"),
    ),
    "labels the network has no output for": (("train", "config.py:too_few_outputs"), ("the loss", "out of bounds")),
    "settings for another number of stages": (
        ("train", "config.py:base", "--cadence", "1", "2"),
        ("cadence takes 1 value or 3", "(1, 2)"),
    ),
    "a folder that is no run": (("resume", "empty"), ("empty is not a run's folder",)),
    "export of a folder that is no run": (("export", "empty", "--out", "x.pt"), ("empty is not a run's folder",)),
    "resume of nothing": (("resume",), ("The run's folder. (required)",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_message_and_leaves_nothing_behind(dni: Run, folder: Path, mistake: str) -> None:
    (folder / "empty").mkdir()
    words, expected = MISTAKES[mistake]
    before = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    code, out, err = dni(*words)
    assert code == 2
    assert [text for text in expected if text not in _flat(err)] == [], err
    assert "Traceback" not in out + err
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.mark.parametrize("command", ["train", "plan"])
def test_plan_refuses_what_train_refuses(dni: Run, folder: Path, command: str) -> None:
    code, _, err = dni(command, "config.py:stages_that_do_not_chain")
    assert code == 2 and "Stages must chain" in err and not (folder / "runs").exists()


def test_message_of_a_mistake_comes_from_one_rank_only(dni: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    for words in (("trian",), ("train", "config.py:base", "--stepps", "3"), ("train", "config.py:sync_probability")):
        code, out, err = dni(*words)
        assert (code, out, err) == (2, "", "")


def test_mistake_is_told_once_and_not_tried_again_by_the_attempts_that_torchrun_makes(
    dni: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    world = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in (world | {"TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    code, _, err = dni("train", "config.py:sync_probability")
    assert code == 2 and "[0, 1]" in err
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert dni("train", "config.py:sync_probability") == (2, "", "")


# Commands


def test_plan_shows_stages_and_boundaries_and_starts_nothing(dni: Run, folder: Path) -> None:
    code, out, err = dni("plan", "config.py:base")
    assert code == 0 and err == "" and not (folder / "runs").exists()
    assert "3 stages" in out and "boundaries" in out
    assert "executor simulate, arrival fixed, 20 steps, seed 0" in _flat(out)
    code, out, err = dni("plan", "config.py:base", "--executor", "threads")
    assert code == 0 and "executor threads" in _flat(out) and "thread 2" in _flat(out)


def test_train_makes_a_run_folder_with_everything_in_it(dni: Run, folder: Path) -> None:
    code, out, err = dni("train", "config.py:base", "--executor", "simulate", "--steps", "20", "--seed", "4")
    assert code == 0 and err == ""
    run = _only_run(folder)
    assert run.name.startswith("base-")
    assert "finished: 20 steps, 3 stages" in out and f"tensorboard --logdir {run.relative_to(folder)}" in _flat(out)
    record = json.loads((run / "config.json").read_text())
    assert record["config"] == "config.py:base" and record["settings"]["seed"] == 4
    assert record["options"] == ["--executor", "simulate", "--steps", "20", "--seed", "4"]
    assert len(record["sha256"]) == 64 and record["num_threads"] == 1
    assert record["versions"]["torch"] == torch.__version__
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["num_stages"]) == ("finished", 20, 3)
    assert json.loads((run / "trace.json").read_text())["traceEvents"]
    for index in range(3):
        assert (run / "metrics" / f"stage-{index}.jsonl").read_text()
        assert (run / "trace" / f"stage-{index}.jsonl").read_text()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000000010", "step-000000020"]


def test_train_with_threads_does_what_train_simulated_does(dni: Run, folder: Path) -> None:
    for executor in ("threads", "simulate"):
        code, out, err = dni("train", "config.py:base", "--executor", executor, "--name", executor)
        assert code == 0 and err == "" and "finished: 20 steps, 3 stages" in out
        assert dni("export", f"runs/{executor}", "--out", f"{executor}.pt")[0] == 0
    threads, simulated = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("threads", "simulate"))
    assert all(torch.equal(value, simulated[name]) for name, value in threads.items())
    summary = json.loads((folder / "runs" / "threads" / "summary.json").read_text())
    assert (summary["executor"], summary["world_size"]) == ("threads", 1)
    assert json.loads((folder / "runs" / "threads" / "trace.json").read_text())["traceEvents"]
    code, _, err = dni("resume", "runs/threads", "--steps", "30")
    assert code == 0 and err == ""
    assert json.loads((folder / "runs" / "threads" / "summary.json").read_text())["resumed_at"] == 20


def test_existing_name_is_refused_and_the_run_left_as_it_is(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    code, _, err = dni("train", "config.py:base", "--name", "mine")
    assert code == 2 and "runs/mine exists already" in _flat(err) and "dni resume runs/mine" in _flat(err)
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before


def test_resume_goes_on_and_ends_where_an_undisturbed_run_ends(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "short")[0] == 0
    assert dni("train", "config.py:base", "--name", "long", "--steps", "30")[0] == 0
    code, out, err = dni("resume", "runs/short", "--steps", "30")
    assert code == 0 and err == "" and "finished: 30 steps" in out
    summary = json.loads((folder / "runs" / "short" / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["resumed_at"]) == ("finished", 30, 20)
    for name in ("short", "long"):
        assert dni("export", f"runs/{name}", "--out", f"{name}.pt")[0] == 0
    short, long = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("short", "long"))
    assert all(torch.equal(value, long[name]) for name, value in short.items())


def test_resume_of_a_finished_run_is_refused(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    code, _, err = dni("resume", "runs/mine")
    assert code == 2
    assert "nothing is left to do: runs/mine has taken 20 of 20 steps" in _flat(err) and "--steps 40" in _flat(err)


def test_resume_with_another_model_is_refused_by_name_and_leaves_the_run_alone(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    (folder / "config.py").write_text(CONFIG.replace("WIDTH = 8", "WIDTH = 9"))
    before = {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()}
    code, _, err = dni("resume", "runs/mine", "--steps", "30")
    assert code == 2
    assert "is a checkpoint of another model: stage 0 has 0.bias with shape (9,), the checkpoint (8,)" in _flat(err)
    assert {path: path.read_bytes() for path in (folder / "runs").rglob("*") if path.is_file()} == before
    assert dni("export", "runs/mine", "--out", "x.pt")[0] == 2 and not (folder / "x.pt").exists()


def test_resume_says_when_the_configuration_has_changed(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    (folder / "config.py").write_text(CONFIG + "\n# a remark\n")
    code, _, err = dni("resume", "runs/mine", "--steps", "22")
    assert code == 0 and "config.py:base has changed since this run was started" in _flat(err)


def test_resume_without_a_whole_checkpoint_is_refused(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    for manifest in (folder / "runs" / "mine" / "checkpoints").glob("*/manifest.json"):
        manifest.unlink()
    code, _, err = dni("resume", "runs/mine", "--steps", "30")
    assert code == 2 and "holds no whole checkpoint" in _flat(err)


def test_resume_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so_once(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    checkpoints = folder / "runs" / "mine" / "checkpoints"
    damaged = checkpoints / "step-000000020" / "stage-1.pt"
    damaged.write_bytes(damaged.read_bytes()[:200])
    code, _, err = dni("export", "runs/mine", "--out", "x.pt")
    assert code == 0 and "note: " in err and "step-000000020 is damaged: stage-1.pt has 200 bytes" in _flat(err)
    assert damaged.exists(), "who only reads moves nothing"
    code, out, err = dni("resume", "runs/mine", "--steps", "30")
    assert code == 0 and "finished: 30 steps" in out
    assert err.count("note: ") == 1 and "step-000000010 is used instead" in _flat(err) and "Warning" not in err
    assert json.loads((folder / "runs" / "mine" / "summary.json").read_text())["resumed_at"] == 10
    assert [path.name for path in sorted(checkpoints.iterdir())] == [f"step-0000000{step}" for step in (10, 20, 30)]


def test_resume_without_an_undamaged_checkpoint_says_what_is_wrong_with_each(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    for path in (folder / "runs" / "mine" / "checkpoints").glob("*/stage-2.pt"):
        path.unlink()
    code, _, err = dni("resume", "runs/mine", "--steps", "30")
    assert code == 2 and "Traceback" not in err
    for step in (10, 20):
        assert f"step-0000000{step} is damaged: stage-2.pt is missing" in _flat(err)


def test_resume_may_change_the_executor(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    assert dni("train", "config.py:base", "--name", "long", "--steps", "30")[0] == 0
    assert dni("resume", "runs/mine", "--steps", "30", "--executor", "threads")[0] == 0
    assert json.loads((folder / "runs" / "mine" / "summary.json").read_text())["executor"] == "threads"
    for name in ("mine", "long"):
        assert dni("export", f"runs/{name}", "--out", f"{name}.pt")[0] == 0
    mine, long = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("mine", "long"))
    assert all(torch.equal(value, long[name]) for name, value in mine.items())
    code, _, err = dni("resume", "runs/mine", "--num-ranks", "9")
    assert code == 2 and "9 ranks cannot share 3 stages" in _flat(err)


def test_export_of_the_best_is_of_the_lowest_test_loss(dni: Run, folder: Path) -> None:
    (folder / "config.py").write_text(CONFIG.replace("test=[(x, target)]", "test=[(x, (target + 1) % 3)]"))
    words = ("--name", "mine", "--evaluate-every", "10", "--steps", "60", "--optimizer.lr", "0.1")
    assert dni("train", "config.py:base", *words)[0] == 0
    run = folder / "runs" / "mine"
    results = [json.loads(path.read_text()) for path in run.glob("checkpoints/*/evaluation.json")]
    best = min(results, key=lambda result: result["test_loss"])
    assert best["step"] < 40 and len(results) == 4, "otherwise the newest is the best, and this test shows nothing"
    code, out, err = dni("export", "runs/mine", "--out", "best.pt", "--best")
    assert code == 0 and err == ""
    assert f"the network at step {best['step']} of runs/mine, test loss {best['test_loss']:.4g}" in _flat(out)
    space: dict[str, Any] = {}
    exec((folder / "config.py").read_text(), space)
    model: nn.Module = space["network"]()
    model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
    ((x, target),) = space["data"]().test
    assert nn.CrossEntropyLoss()(model.eval()(x), target).item() == pytest.approx(best["test_loss"])


def test_export_of_the_best_of_a_run_without_test_results_is_refused(dni: Run, folder: Path) -> None:
    (folder / "config.py").write_text(CONFIG.replace(", test=[(x, target)]", ""))
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    code, _, err = dni("export", "runs/mine", "--out", "best.pt", "--best")
    assert code == 2 and "has a test loss" in _flat(err) and not (folder / "best.pt").exists()


def test_data_that_has_to_be_skipped_is_a_note_not_a_python_warning(dni: Run, folder: Path) -> None:
    keyed = "KeyedBatches(x, target, batch_size=8)"
    (folder / "config.py").write_text(CONFIG.replace(keyed, "[(x[:8], target[:8]), (x[8:], target[8:])]"))
    assert dni("train", "config.py:base", "--name", "mine")[0] == 0
    code, _, err = dni("resume", "runs/mine", "--steps", "22")
    assert code == 0 and _flat(err).startswith("note: the data is read again from its beginning and 20 batches are")
    assert ".py" not in err and len(err.splitlines()) == 1


def test_export_loads_into_the_unsplit_model(dni: Run, folder: Path) -> None:
    assert dni("train", "config.py:base", "--name", "mine", "--steps", "200")[0] == 0
    code, out, _ = dni("export", "runs/mine", "--out", "network.pt")
    assert code == 0 and "network.pt" in out and "step 200" in out
    space: dict[str, Any] = {}
    exec(CONFIG, space)
    model: nn.Module = space["network"]()
    model.load_state_dict(torch.load(folder / "network.pt", weights_only=True), strict=True)
    (x, target), *_ = space["data"]().test
    accuracy = (model.eval()(x).argmax(1) == target).float().mean().item()
    summary = json.loads((folder / "runs" / "mine" / "summary.json").read_text())
    assert accuracy == pytest.approx(summary["test_accuracy"]) and accuracy > 0.6


@pytest.mark.parametrize("executor", ["simulate", "threads"])
def test_signal_drains_and_saves_and_the_run_can_go_on(dni: Run, folder: Path, executor: str) -> None:
    code, out, _ = dni("train", "config.py:interrupted", "--name", "mine", "--executor", executor)
    assert code == 1 and "interrupted:" in out and "dni resume runs/mine" in _flat(out)
    summary = json.loads((folder / "runs" / "mine" / "summary.json").read_text())
    assert summary["status"] == "interrupted" and summary["steps"] >= 7
    code, out, _ = dni("resume", "runs/mine", "--steps", str(summary["steps"] + 5))
    assert code == 0 and f"finished: {summary['steps'] + 5} steps" in out


@pytest.mark.parametrize("executor", ["simulate", "threads"])
def test_run_that_fails_names_stage_and_step_and_keeps_its_checkpoint(dni: Run, folder: Path, executor: str) -> None:
    code, _, err = dni("train", "config.py:nan_in_the_loss", "--name", "mine", "--executor", executor)
    assert code == 1 and "Traceback" not in err
    assert "stage 2 failed at step 11 in backward: NotFinite: the loss is nan" in _flat(err)
    run = folder / "runs" / "mine"
    record = json.loads((run / "error.json").read_text())
    assert (record["stage"], record["step"], record["phase"]) == (2, 11, "backward")
    assert "NotFinite" in record["traceback"]
    assert (run / "checkpoints" / "step-000000010" / "manifest.json").exists()
    assert not (run / "summary.json").exists()
