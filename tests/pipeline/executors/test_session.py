"""Is what has to be kept of a run kept, at the moment it has to be?"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni import ConditionalSyntheticGradient, Every
from pipeline import CheckpointError, Config, Data, KeyedBatches, SaveFailure, Sgd, prepare, run_simulated
from pipeline.clock import VirtualClock
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage
from pipeline.errors import FailureRecord
from pipeline.executors.session import Session, on_signals, threads
from pipeline.messages import Drain
from pipeline.records.checkpoint import latest
from pipeline.records.folder import write_error
from pipeline.records.manifest import find_folders, verify
from pipeline.records.monitor import StageMonitor
from pipeline.records.order import read_order
from pipeline.records.retention import Retention, best
from pipeline.stages.stage import Stage
from tests.loaders import Remembering

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(20) % 3


def _prepared(**more: Any) -> Prepared:
    settings: dict[str, Any] = {
        "model": lambda: [nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)],
        "data": lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8)),
        "loss": nn.CrossEntropyLoss(),
        "source": ConditionalSyntheticGradient(3),
        "sync": Every(4),
        "steps": 10,
        "checkpoint_every": 4,
    }
    return prepare(Config(**{**settings, **more}))


def _session(prepared: Prepared, folder: Path | None, *, resume: bool = False) -> tuple[Session, list[Stage]]:
    clock = VirtualClock(lambda stage, operation: 1.0)
    stages = [build_stage(prepared, index, clock=clock) for index in range(prepared.num_stages)]
    return Session(prepared, stages, folder=folder, resume=resume), stages


def test_checkpoint_is_declared_whole_when_the_last_stage_has_saved(tmp_path: Path) -> None:
    session, stages = _session(_prepared(), tmp_path)
    manifest = tmp_path / "checkpoints" / "step-000000004" / "manifest.json"
    for stage in (stages[1], stages[0], stages[2]):
        assert not manifest.exists()
        session.drained(stage, Drain(step=4, save=True))
    found = json.loads(manifest.read_text())
    assert sorted(found.pop("files")) == ["stage-0.pt", "stage-1.pt", "stage-2.pt"]
    assert found == {"step": 4, "num_stages": 3, "exact": True, "finished": False, "format": 2}
    assert verify(manifest.parent).step == 4
    session.close()


def test_parts_of_stages_in_several_processes_are_brought_together_by_whoever_connects_them(tmp_path: Path) -> None:
    """Each process has a session of its own; here, the parts of both go through one list."""
    prepared, parts = _prepared(), []
    clock = VirtualClock(lambda stage, operation: 1.0)
    stages = [build_stage(prepared, index, clock=clock) for index in range(3)]

    def collect(name: str, stage: int, part: Any) -> list[Any] | None:
        assert name == "saved/4"
        json.dumps(part)
        parts.append(part)
        return parts if len(parts) == 3 else None

    lower, upper = (
        Session(prepared, own, folder=tmp_path, resume=False, collect=collect) for own in (stages[:2], stages[2:])
    )
    with lower, upper:
        for session, stage in ((lower, stages[0]), (upper, stages[2]), (lower, stages[1])):
            session.drained(stage, Drain(step=4, save=True))
    assert latest(tmp_path / "checkpoints")[1].step == 4


def test_stage_is_saved_once_for_a_step_even_if_it_is_asked_twice(tmp_path: Path) -> None:
    """A signal may come right after a scheduled checkpoint; the lower stages get there while the upper ones save."""
    session, stages = _session(_prepared(), tmp_path)
    for stage in (stages[0], stages[0], stages[1], stages[1]):
        session.drained(stage, Drain(step=4, save=True))
    assert not (tmp_path / "checkpoints" / "step-000000004" / "manifest.json").exists()
    session.drained(stages[2], Drain(step=4, save=True))
    before = (tmp_path / "checkpoints" / "step-000000004" / "stage-0.pt").stat().st_mtime_ns
    session.drained(stages[0], Drain(step=4, save=True))
    session.close()
    assert (tmp_path / "checkpoints" / "step-000000004" / "stage-0.pt").stat().st_mtime_ns == before
    assert latest(tmp_path / "checkpoints")[1].step == 4


def test_drain_that_does_not_save_and_run_without_a_folder_write_nothing(tmp_path: Path) -> None:
    session, stages = _session(_prepared(), tmp_path)
    for stage in stages:
        session.drained(stage, Drain(step=4))
    assert not (tmp_path / "checkpoints").exists()
    session.close()
    nowhere, stages = _session(_prepared(), None)
    for stage in stages:
        nowhere.drained(stage, Drain(step=4, save=True))
    nowhere.close()
    assert len(nowhere.entries()) == 3


def test_checkpoint_off_the_schedule_does_not_claim_to_be_exact(tmp_path: Path) -> None:
    session, stages = _session(_prepared(), tmp_path)
    for stage in stages:
        session.drained(stage, Drain(step=5, save=True))
    session.close()
    assert not json.loads((tmp_path / "checkpoints" / "step-000000005" / "manifest.json").read_text())["exact"]


def test_record_up_to_a_checkpoint_is_on_disk_with_it(tmp_path: Path) -> None:
    """A run that is killed after a checkpoint goes on from it, and its trace has no gap."""
    session, stages = _session(_prepared(log_every=100), tmp_path)
    stages[0].recorder.mark("D", 3, version=0)
    session.drained(stages[0], Drain(step=4, save=True))
    trace = (tmp_path / "trace" / "stage-0.jsonl").read_text()
    session.close()
    assert json.loads(trace)["event"] == "0D3"


def test_resumed_session_begins_at_the_newest_checkpoint_with_its_weights(tmp_path: Path) -> None:
    run_simulated(_prepared(steps=8), folder=tmp_path)
    session, stages = _session(_prepared(), tmp_path, resume=True)
    session.close()
    assert session.start == 8 and [stage.version for stage in stages] == [8, 8, 8]
    fresh, untrained = _session(_prepared(), None)
    fresh.close()
    assert not torch.equal(next(stages[0].module.parameters()), next(untrained[0].module.parameters()))


def test_run_resumed_from_a_checkpoint_equals_one_never_stopped(tmp_path: Path) -> None:
    undisturbed = run_simulated(_prepared(steps=14)).export()
    run_simulated(_prepared(steps=8), folder=tmp_path)
    resumed = run_simulated(_prepared(steps=14), folder=tmp_path, resume=True)
    assert resumed.summary["resumed_at"] == 8 and resumed.summary["resume_exact"] is False  # step 14 is off schedule
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.export().items())


# What is kept


def _folders(run: Path) -> list[str]:
    return [folder.name for _, folder in find_folders(run / "checkpoints", "step", "aside")]


def _tested(**more: Any) -> Prepared:
    """A run that is tested on labels other than those it learns: the more it learns, the worse it gets."""
    data = Data(train=KeyedBatches(X, TARGET, batch_size=8), test=[(X, (TARGET + 1) % 3)])
    return _prepared(**{"data": lambda: data, "optimizer": Sgd(lr=0.3), "steps": 20, "evaluate_every": 4, **more})


def test_newest_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    run_simulated(_tested(keep_last=2), folder=tmp_path)
    losses = {
        line["step"]: line["test_loss"]
        for line in map(json.loads, (tmp_path / "metrics" / "stage-2.jsonl").read_text().splitlines())
        if "test_loss" in line
    }
    assert sorted(losses) == [4, 8, 12, 16, 20]
    assert min(losses, key=lambda step: losses[step]) == 8
    assert _folders(tmp_path) == ["step-000000008", "step-000000016", "step-000000020"]
    assert best(tmp_path / "checkpoints")[2] == losses[8]
    run_simulated(_tested(keep_last=1, keep_best=False, steps=24), folder=tmp_path, resume=True)
    assert _folders(tmp_path) == ["step-000000024"]


def test_result_that_a_killed_run_did_not_come_to_is_made_up_for_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    undisturbed = run_simulated(_tested(), folder=whole)

    def die(retention: Retention, step: int, results: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Retention, "evaluated", die)
        with pytest.raises(KeyboardInterrupt):
            run_simulated(_tested(), folder=killed)
    resumed = run_simulated(_tested(), folder=killed, resume=True)
    assert resumed.summary["resumed_at"] == 4
    assert all(torch.equal(value, undisturbed.export()[name]) for name, value in resumed.export().items())
    assert _folders(killed) == _folders(whole)
    result = "checkpoints/step-000000008/evaluation.json"
    assert (killed / result).read_text() == (whole / result).read_text()
    for stage in range(3):
        orders = [[attempt.messages for attempt in read_order(run, stage)] for run in (killed, whole)]
        assert [message for messages in orders[0] for message in messages] == orders[1][0]
    metrics = (killed / "metrics" / "stage-2.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in metrics if "test_loss" in line] == [4, 8, 12, 16, 20]


def test_run_that_begins_anew_in_an_old_folder_does_not_take_its_checkpoints_for_its_own(tmp_path: Path) -> None:
    run_simulated(_prepared(steps=8), folder=tmp_path)
    run_simulated(_prepared(steps=4), folder=tmp_path)
    assert _folders(tmp_path) == ["step-000000004", "aside-000000008"]
    assert latest(tmp_path / "checkpoints")[1].step == 4


# What is damaged, or cannot be written


def test_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_its_record_is_cut_back_to_it(tmp_path: Path) -> None:
    undisturbed = run_simulated(_prepared(steps=14, log_every=1)).export()
    run_simulated(_prepared(steps=12, log_every=1), folder=tmp_path)
    (tmp_path / "checkpoints" / "step-000000012" / "stage-1.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"000012 is damaged: stage-1\.pt has 0 bytes.*000008 is used instead"):
        resumed = run_simulated(_prepared(steps=14, log_every=1), folder=tmp_path, resume=True)
    assert resumed.summary["resumed_at"] == 8
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.export().items())
    for stage in range(3):
        trace = [json.loads(line) for line in (tmp_path / "trace" / f"stage-{stage}.jsonl").read_text().splitlines()]
        forwards = [event["event"] for event in trace if event["event"].startswith(f"{stage}F")]
        assert forwards == [f"{stage}F{step}" for step in range(14)]
        order = (tmp_path / "order" / f"stage-{stage}.txt").read_text().split()
        assert [message for message in order if message[0] == "A"] == [f"A{step}" for step in range(14)]
        metrics = (tmp_path / "metrics" / f"stage-{stage}.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in metrics]
        assert steps == sorted(steps)
    assert _folders(tmp_path) == ["step-000000008", "step-000000012", "step-000000014"]


def test_run_without_a_whole_checkpoint_says_what_is_wrong_and_changes_nothing(tmp_path: Path) -> None:
    run_simulated(_prepared(steps=8), folder=tmp_path)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "stage-0.pt").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(CheckpointError, match=r"step-000000008 is damaged: stage-0\.pt is missing.*04 is damaged"):
        run_simulated(_prepared(), folder=tmp_path, resume=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


FAILURES = {
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Make room on that disk"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded. Make room within your quota"),
    "not allowed": (PermissionError(errno.EACCES, "Permission denied"), "Permission denied. Allow writing there"),
    "limit": (OSError(errno.EFBIG, "File too large"), "File too large. Allow larger files"),
    "broken disk": (OSError(errno.EIO, "Input/output error"), "Input/output error. Mend that"),
    "unknown": (OSError("the cable is loose"), "the cable is loose. Mend that"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_failure_to_save_names_stage_step_file_and_remedy_and_the_run_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    undisturbed = run_simulated(_prepared()).export()
    error, message = FAILURES[failure]
    save = torch.save

    def fail(state: object, file: Any) -> None:
        if len(list((tmp_path / "checkpoints").rglob("stage-*.pt"))) == 4:  # step 8, the second stage to save
            file.write(b"half of it")
            raise error
        save(state, file)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(SaveFailure, match=r"stage \d could not be saved at step 8: .*" + message) as caught:
        run_simulated(_prepared(), folder=tmp_path)
    stage = caught.value.stage
    path = tmp_path / "checkpoints" / "step-000000008" / f"stage-{stage}.pt"
    assert str(path if failure != "unknown" else tmp_path) in str(caught.value)
    record = FailureRecord(**json.loads((tmp_path / "error.json").read_text()))
    assert (record.stage, record.step, record.phase) == (stage, 8, "checkpoint")
    assert not list(tmp_path.rglob("*.tmp")) and not path.exists()
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"step-000000008 is unfinished.*step-000000004 is used instead"):
        resumed = run_simulated(_prepared(), folder=tmp_path, resume=True)
    assert resumed.summary["resumed_at"] == 4
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.export().items())
    assert _folders(tmp_path) == ["step-000000004", "step-000000008", "step-000000010"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("at", range(7))
def test_failure_at_any_call_of_a_save_leaves_that_checkpoint_or_the_one_before_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    session, stages = _session(_prepared(), tmp_path)
    for stage in stages:
        session.drained(stage, Drain(step=4, save=True))
    calls, real = [], getattr(os, name)

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == at + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(SaveFailure):
        patch.setattr(os, name, fail)
        for stage in stages:
            session.drained(stage, Drain(step=8, save=True))
    session.close()
    assert not list(tmp_path.rglob("*.tmp"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        step = latest(tmp_path / "checkpoints")[1].step
    named = (tmp_path / "checkpoints" / "step-000000008" / "manifest.json").exists()
    assert step == (8 if named else 4) and (named or len(calls) > at)


def test_record_that_cannot_be_written_fails_the_run_by_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, stages = _session(_prepared(log_every=1), tmp_path)

    def fail(*_: Any) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StageMonitor, "look", fail)
    with pytest.raises(SaveFailure, match=f"stage 1 could not be saved at step 0: {tmp_path}: No space"):
        session.look(stages[1])
    session.close()


def test_failure_while_closing_does_not_hide_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def fail(monitor: StageMonitor) -> None:
        closed.append(monitor.stage.index)
        close(monitor)
        raise OSError(errno.ENOSPC, "No space left on device")

    close = StageMonitor.close
    monkeypatch.setattr(StageMonitor, "close", fail)
    session, _ = _session(_prepared(), tmp_path)
    with pytest.raises(ArithmeticError, match="first") as caught, session:
        raise ArithmeticError("first")
    assert sorted(closed) == [0, 1, 2] and "Then also: SaveFailure: stage" in caught.value.__notes__[0]
    again, _ = _session(_prepared(), tmp_path)
    with pytest.raises(SaveFailure, match="could not be saved"), again:
        pass


def test_error_json_is_not_worth_hiding_an_error_for(tmp_path: Path) -> None:
    write_error(tmp_path / "nowhere", FailureRecord(rank=0, message="disk full"))
    write_error(tmp_path, FailureRecord(rank=0, message="disk full"))
    write_error(tmp_path, FailureRecord(rank=1, message="the store has died"), over=False)
    assert json.loads((tmp_path / "error.json").read_text())["message"] == "disk full"
    assert [path.name for path in tmp_path.iterdir()] == ["error.json"]


# Data that knows its place


def _remembering(**more: Any) -> Prepared:
    pairs = [(X[i : i + 4], TARGET[i : i + 4]) for i in range(0, 20, 4)]
    return _prepared(data=lambda: Data(train=Remembering(pairs)), **more)


@pytest.mark.parametrize("steps", [4, 5, 8, 10])
def test_run_whose_data_knows_its_place_resumes_exactly(tmp_path: Path, steps: int) -> None:
    undisturbed = run_simulated(_remembering(steps=14, checkpoint_every=steps)).export()
    run_simulated(_remembering(steps=steps, checkpoint_every=steps), folder=tmp_path)
    path, manifest = latest(tmp_path / "checkpoints")
    assert manifest.exact and "feed.pt" in manifest.files and (path / "feed.pt").exists()
    resumed = run_simulated(_remembering(steps=14, checkpoint_every=steps), folder=tmp_path, resume=True)
    assert resumed.summary["resumed_at"] == steps
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.export().items())


def test_run_started_with_other_data_cannot_go_on_with_data_that_knows_its_place(tmp_path: Path) -> None:
    run_simulated(_prepared(steps=8), folder=tmp_path)
    with pytest.raises(CheckpointError, match="does not say where the data stood"):
        run_simulated(_remembering(steps=14), folder=tmp_path, resume=True)


# Threads and signals


def test_number_of_threads_holds_inside_the_block_only() -> None:
    torch.set_num_threads(1)
    with threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_calls_the_action_inside_the_block_only(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    called = []
    with on_signals(lambda: called.append(1), active=True):
        os.kill(os.getpid(), number)
    assert called == [1] and signal.getsignal(number) is before
    with on_signals(lambda: called.append(2), active=False):
        assert signal.getsignal(number) is before


def test_signal_during_a_run_saves_and_stops_and_the_run_can_go_on(tmp_path: Path) -> None:
    undisturbed = run_simulated(_prepared(steps=12, delay=(1,))).export()
    seen = []

    def interrupt(statuses: object) -> None:
        if not seen:
            seen.append(statuses)
            os.kill(os.getpid(), signal.SIGINT)

    prepared = _prepared(steps=12, delay=(1,), log_every=5, checkpoint_every=0)
    stopped = run_simulated(prepared, folder=tmp_path, on_status=interrupt, stop_on_signal=True)
    assert stopped.summary["status"] == "interrupted" and 5 <= stopped.summary["steps"] < 12
    resumed = run_simulated(_prepared(steps=12, delay=(1,), checkpoint_every=0), folder=tmp_path, resume=True)
    assert resumed.summary["status"] == "finished" and resumed.summary["resumed_at"] == stopped.summary["steps"]
    assert stopped.summary["resume_exact"] is True, "with a delay of 1 nothing is in flight between two steps"
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.export().items())
