"""Do the threads of a run end together, with the first failure as the one raised, and do they really run at once?"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dni import Bernoulli, ConditionalSyntheticGradient, GradientSource, TrueGradient
from pipeline import Config, Data, KeyedBatches, RunError, StageFailure, prepare, run_simulated, run_threaded, train
from pipeline.configuration.config import Sgd
from pipeline.errors import SaveFailure
from pipeline.executors import threaded
from pipeline.records import checkpoint
from pipeline.records.monitor import StageMonitor, StageStatus
from pipeline.stages.arrival import Inbox
from pipeline.stages.stage import Stage
from tests.faults import FailAt, FailAtUpdate, FailBackwardAt, FailEvaluation, FailingSource
from tests.reference import Problem, assert_bit_equal

WIDTH = 6
X = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(40) % 3


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Neither after success nor after failure."""
    before = set(threading.enumerate())
    yield
    assert [thread.name for thread in threading.enumerate() if thread not in before] == []


def config(*inserted: nn.Module, at: int = 0, **more: Any) -> Config:
    """Three stages of one layer each, with the true gradient; in stage `at` also what is inserted."""

    def model() -> list[nn.Module]:
        stages = [nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)]
        stages[at] = nn.Sequential(stages[at], *inserted)
        return stages

    settings: dict[str, Any] = {
        "model": model,
        "data": lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8), test=[(X, TARGET)]),
        "loss": nn.CrossEntropyLoss(),
        "source": TrueGradient(),
        "optimizer": Sgd(lr=0.05),
        "steps": 12,
        "executor": "threads",
    }
    return Config(**{**settings, **more})


# Failures


def _failing(stage: int, phase: str, step: int) -> Config:
    """A run of which one stage fails in a phase at a step."""
    match phase:
        case "forward":
            return config(FailAt(step), at=stage)
        case "backward":
            return config(FailBackwardAt(step), at=stage)
        case "evaluation":
            return config(FailEvaluation(), at=stage)
        case "update":
            sound: list[Any] = [Sgd(lr=0.05)] * 3
            sound[stage] = FailAtUpdate(Sgd(lr=0.05), number=step)
            return config(optimizer=tuple(sound))
        case "source learning":
            sources: list[GradientSource] = [TrueGradient(), TrueGradient()]
            sources[stage] = FailingSource(learn=step)
            return config(source=tuple(sources))
    raise AssertionError(phase)


@pytest.mark.parametrize("step", [1, 7, 11])
@pytest.mark.parametrize("phase", ["forward", "backward", "update"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_failure_in_any_stage_phase_and_step_is_the_one_raised(
    stage: int, phase: str, step: int, tmp_path: Path
) -> None:
    with pytest.raises(StageFailure, match="ArithmeticError: scripted fault") as caught:
        run_threaded(prepare(_failing(stage, phase, step)), folder=tmp_path)
    assert (caught.value.stage, caught.value.step, caught.value.phase) == (stage, step, phase)
    assert isinstance(caught.value.__cause__, ArithmeticError)
    record = json.loads((tmp_path / "error.json").read_text())
    assert (record["stage"], record["step"], record["phase"]) == (stage, step, phase)
    assert "scripted fault" in record["traceback"] and not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    ("stage", "phase", "step"), [(1, "evaluation", 0), (2, "evaluation", 0), (0, "source learning", 5)]
)
def test_failure_in_evaluation_and_in_a_source_is_the_one_raised(stage: int, phase: str, step: int) -> None:
    with pytest.raises(StageFailure, match="ArithmeticError: scripted fault") as caught:
        run_threaded(prepare(_failing(stage, phase, step)))
    assert (caught.value.stage, caught.value.step, caught.value.phase) == (stage, step, phase)


def test_update_at_the_end_of_a_run_that_fails_names_the_stage() -> None:
    """What is left in the accumulators is applied when the last drain is over, outside of any message."""
    with pytest.raises(StageFailure) as caught:
        run_threaded(prepare(replace(_failing(1, "update", 0), cadence=(50,))))
    assert (caught.value.stage, caught.value.step, caught.value.phase) == (1, 11, "update")


@pytest.mark.parametrize("stage", [0, 2])
def test_failure_while_saving_names_the_stage_and_leaves_the_last_checkpoint_whole(
    stage: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save_stage

    def full(checkpoints: Path, saved: Stage, *, step: int) -> Any:
        if step == 8 and saved.index == stage:
            raise OSError(28, "No space left on device")
        return save(checkpoints, saved, step=step)

    monkeypatch.setattr(checkpoint, "save_stage", full)
    with pytest.raises(SaveFailure, match="No space left on device") as caught:
        run_threaded(prepare(config(checkpoint_every=4)), folder=tmp_path)
    assert (caught.value.stage, caught.value.step, caught.value.phase) == (stage, 8, "checkpoint")
    assert [path.parent.name for path in tmp_path.glob("checkpoints/*/manifest.json")] == ["step-000000004"]


def test_parameter_that_is_not_finite_at_a_checkpoint_is_refused(tmp_path: Path) -> None:
    diverging = config(optimizer=Sgd(lr=math.inf), source=ConditionalSyntheticGradient(3), steps=1)
    with pytest.raises(StageFailure, match=r"parameter .* holds NaN or infinity") as caught:
        run_threaded(prepare(diverging), folder=tmp_path)
    assert caught.value.phase == "checkpoint" and not list(tmp_path.glob("checkpoints/*/manifest.json"))


def test_record_that_cannot_be_written_names_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = StageMonitor.look

    def full(monitor: StageMonitor) -> bool:
        if monitor.stage.index == 1 and monitor.stage.version == 5:
            raise OSError(28, "No space left on device")
        return look(monitor)

    monkeypatch.setattr(StageMonitor, "look", full)
    with pytest.raises(SaveFailure, match="No space left on device") as caught:
        run_threaded(prepare(config()), folder=tmp_path)
    assert caught.value.stage == 1


def test_data_that_fails_names_the_step() -> None:
    class Damaged(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            if index == 21:
                raise KeyError("damaged file")
            return super().__getitem__(index)

    data = DataLoader(Damaged(X, TARGET), batch_size=8)
    with pytest.raises(StageFailure, match="stage 0 failed at step 2 in data: KeyError: 'damaged file'"):
        run_threaded(prepare(config(data=lambda: Data(train=data))))


def test_data_that_runs_out_is_said() -> None:
    data = iter([(X, TARGET)] * 3)
    with pytest.raises(RunError, match="the data ran out after 3 batches"):
        run_threaded(prepare(config(data=lambda: Data(train=data))))


class Meeting(nn.Module):
    """Waits, in its training forwards from `first` to `last`, until the other stage is in such a forward too."""

    def __init__(self, barrier: threading.Barrier, first: int, last: int, then: BaseException | None = None) -> None:
        super().__init__()
        self.barrier, self.first, self.last, self.then = barrier, first, last, then
        self.count = 0

    def __deepcopy__(self, memo: object) -> nn.Module:
        return nn.Identity()  # the copy that the run's checks look at is on its own

    def forward(self, h: Tensor) -> Tensor:
        if not self.training:
            return h
        now, self.count = self.count, self.count + 1
        if self.first <= now <= self.last:
            self.barrier.wait()
            if self.then is not None:
                raise self.then
        return h


def _meeting(timeout_s: float, *, last: int, **then: BaseException) -> Config:
    """Two neighbouring stages, each in its forward at the same time as the other is: stage 0 one step ahead."""
    barrier = threading.Barrier(2, timeout=timeout_s)

    def model() -> list[nn.Module]:
        ahead = Meeting(barrier, 3, last + 1, then.get("lower"))
        behind = Meeting(barrier, 2, last, then.get("upper"))
        return [nn.Sequential(nn.Linear(WIDTH, WIDTH), ahead), nn.Sequential(nn.Linear(WIDTH, 3), behind)]

    # Nobody waits for a gradient, and no check of draws (which is done alone) falls on these steps.
    return config(model=model, source=ConditionalSyntheticGradient(3), check_every=0)


def test_stages_run_at_the_same_time() -> None:
    """Each forward waits for one of the other stage; no executor passes this that runs one after the other."""
    assert run_threaded(prepare(_meeting(30.0, last=10))).summary["status"] == "finished"
    with pytest.raises(StageFailure, match="BrokenBarrierError"):
        run_simulated(prepare(_meeting(0.01, last=10)))


def test_second_of_two_failures_at_once_is_a_note_of_the_first(tmp_path: Path) -> None:
    failing = _meeting(30.0, last=10, lower=ArithmeticError("lower fault"), upper=ArithmeticError("upper fault"))
    with pytest.raises(StageFailure) as caught:
        run_threaded(prepare(failing), folder=tmp_path)
    first, (note,) = str(caught.value), caught.value.__notes__
    lower, upper = "stage 0 failed at step 3 in forward", "stage 1 failed at step 2 in forward"
    assert (first.startswith(lower) and upper in note) or (first.startswith(upper) and lower in note)
    assert note.startswith("Then also: StageFailure: stage")
    record = json.loads((tmp_path / "error.json").read_text())
    assert lower in record["traceback"] and upper in record["traceback"]


def test_what_would_end_a_thread_alone_ends_the_run() -> None:
    with pytest.raises(SystemExit, match="3"):
        run_threaded(prepare(_meeting(30.0, last=10, upper=SystemExit(3))))


def test_failure_of_whoever_looks_at_the_statuses_ends_the_run() -> None:
    def look(statuses: Sequence[StageStatus]) -> None:
        raise LookupError("no display")

    with pytest.raises(LookupError, match="no display"):
        run_threaded(prepare(config()), on_status=look)


def test_stages_that_wait_for_one_another_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded, "_STATUS_PERIOD_S", 0.01)
    monkeypatch.setattr(threaded, "make_inbox", _deaf_in_the_middle)
    with pytest.raises(RunError, match=r"no stage can go on.*stage 1: in flight 0, accepts True, waiting below 1"):
        run_threaded(prepare(config(delay=(2,))))


def _deaf_in_the_middle(prepared: object, index: int) -> Inbox:
    class Deaf(Inbox):
        def turn(self, stage: Stage) -> None:
            return None

    return Deaf("fixed") if index == 1 else Inbox("fixed")


# Interruptions


class SignalAt(nn.Module):
    """Sends this process a signal in training forward `step`."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        super().__init__()
        self.step, self.number = step, number
        self.count = 0

    def forward(self, h: Tensor) -> Tensor:
        if self.training:
            if self.count == self.step:
                os.kill(os.getpid(), self.number)
            self.count += 1
        return h


def test_keyboard_interrupt_ends_all_threads_and_is_raised(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell put us in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        run_threaded(prepare(config(SignalAt(5, signal.SIGINT), at=1, steps=10**6)), folder=tmp_path)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_drains_and_saves_and_the_run_goes_on_in_another_executor(
    number: signal.Signals, tmp_path: Path
) -> None:
    interrupted = config(SignalAt(5, number), at=1, steps=10**6, delay=(1,), log_every=2)
    stopped = run_threaded(prepare(interrupted), folder=tmp_path, stop_on_signal=True)
    steps = stopped.summary["steps"]
    assert stopped.summary["status"] == "interrupted" and steps >= 5
    assert stopped.summary["resume_exact"] is True, "with a delay of 1 nothing is in flight between two steps"
    further = config(nn.Identity(), at=1, steps=steps + 6, delay=(1,))
    resumed = run_simulated(prepare(further), folder=tmp_path, resume=True)
    assert resumed.summary["resumed_at"] == steps
    assert_bit_equal(resumed.export(), run_simulated(prepare(further)).export())


# Resuming

PROBLEM = Problem(num_stages=4, dropout=0.1, optimizer="adam", steps=24)


def _everything(steps: int = PROBLEM.steps) -> Config:
    """Synthetic gradients, syncs, sparse updates, cadences and dropout: everything that has a state."""
    source = ConditionalSyntheticGradient(num_classes=10)
    return PROBLEM.config(
        source, sync=Bernoulli(0.3), cadence=(1, 2, 1, 3), update_probability=(1.0, 0.7, 1.0, 1.0), checkpoint_every=6,
        steps=steps, executor="threads",
    )  # fmt: skip


@pytest.mark.parametrize("executors", [(run_threaded, run_simulated), (run_simulated, run_threaded)])
def test_run_goes_on_in_another_executor_bit_for_bit(executors: tuple[Callable[..., Any], ...], tmp_path: Path) -> None:
    first, second = executors
    first(prepare(_everything(steps=12)), folder=tmp_path)
    result = second(prepare(_everything()), folder=tmp_path, resume=True)
    assert result.summary["resumed_at"] == 12 and result.summary["resume_exact"]
    assert_bit_equal(result.export(), run_simulated(prepare(_everything())).export())


# The rest


def test_every_stage_saves_at_every_checkpoint_and_one_of_them_declares_it_whole(tmp_path: Path) -> None:
    run_threaded(prepare(config(source=ConditionalSyntheticGradient(3), checkpoint_every=1)), folder=tmp_path)
    found = sorted(path.parent.name for path in (tmp_path / "checkpoints").glob("*/manifest.json"))
    assert found[-1] == "step-000000012"
    for index in range(3):
        assert (tmp_path / "trace" / f"stage-{index}.jsonl").read_text()


def test_statuses_are_shown_from_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded, "_STATUS_PERIOD_S", 0.001)
    seen = []

    def look(statuses: Sequence[StageStatus]) -> None:
        seen.append((threading.current_thread(), [status.stage for status in statuses]))

    run_threaded(prepare(config(log_every=1)), on_status=look)
    assert seen and {thread for thread, _ in seen} == {threading.current_thread()}
    assert seen[-1][1] == [0, 1, 2]


class Noting(nn.Module):
    """Notes in which thread its forwards run, and with how many intra-op threads."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, int]] = set()

    def forward(self, h: Tensor) -> Tensor:
        self.seen.add((threading.current_thread().name, torch.get_num_threads()))
        return h


@pytest.mark.parametrize("num_threads", [1, 2])
def test_every_thread_has_the_intra_op_threads_of_the_run_and_the_caller_keeps_its_own(num_threads: int) -> None:
    torch.set_num_threads(3 - num_threads)
    noting = Noting()
    run_threaded(prepare(config(noting, at=1, num_threads=num_threads, steps=2)))
    assert noting.seen == {("stage 1", num_threads)} and torch.get_num_threads() == 3 - num_threads


def test_gradients_are_taken_though_the_caller_takes_none() -> None:
    prepared = prepare(config())
    with torch.no_grad():
        result = run_threaded(prepared)
    assert_bit_equal(result.export(), run_simulated(prepare(config())).export())


def test_global_generator_is_undisturbed_and_does_not_disturb() -> None:
    loader = DataLoader(TensorDataset(X, TARGET), batch_size=8, shuffle=True)
    results = []
    for seed, executor in ((3, "threads"), (4, "threads"), (5, "simulate")):
        stages = [nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)]
        for parameter in (each for stage in stages for each in stage.parameters()):
            nn.init.constant_(parameter, 0.1)
        model = [nn.Sequential(stage, nn.Dropout(0.3)) for stage in stages]
        torch.manual_seed(seed)
        results.append(train(model, loader, loss=nn.CrossEntropyLoss(), steps=8, executor=executor).export())
        drawn = torch.rand(2)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(2))
    assert_bit_equal(results[0], results[1])
    assert_bit_equal(results[0], results[2])


def test_time_is_told_apart_per_stage() -> None:
    stages = run_threaded(prepare(config(steps=40))).summary["stages"]
    for stage in stages:
        assert stage["busy_s"] > 0 and stage["overhead_s"] > 0 and stage["handled"] >= 40
    assert stages[0]["wait_s"] > 0
