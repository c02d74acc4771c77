"""Is what has to be kept of a run kept, at the moment it has to be?"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni import ConditionalSyntheticGradient, Every
from pipeline import Config, Data, KeyedBatches, prepare, run_simulated
from pipeline.clock import VirtualClock
from pipeline.messages import Drain
from pipeline.run import Prepared, build_stage
from pipeline.session import Session, on_signals, threads
from pipeline.stage import Stage

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
    counts: Counter[str] = Counter()

    def count(name: str) -> int:
        counts[name] += 1
        return counts[name]

    return Session(prepared, stages, folder=folder, resume=resume, count=count), stages


def test_checkpoint_is_declared_whole_when_the_last_stage_has_saved(tmp_path: Path) -> None:
    session, stages = _session(_prepared(), tmp_path)
    manifest = tmp_path / "checkpoints" / "step-000000004" / "manifest.json"
    for stage in (stages[1], stages[0], stages[2]):
        assert not manifest.exists()
        session.drained(stage, Drain(step=4, save=True))
    assert json.loads(manifest.read_text()) == {
        "step": 4, "num_stages": 3, "exact": True, "finished": False, "format": 1,
    }  # fmt: skip
    session.close()


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
