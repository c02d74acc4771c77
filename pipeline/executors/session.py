"""What is kept of a run while it runs? Monitors, checkpoints and the summary, for the stages of one process."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import torch

from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import resumes_exactly
from pipeline.data.stateful import StatefulBatches
from pipeline.errors import SaveFailure, blaming
from pipeline.messages import Drain
from pipeline.records import checkpoint
from pipeline.records.durable import FileDigest
from pipeline.records.manifest import Manifest, write_manifest
from pipeline.records.monitor import StageMonitor, StageStatus
from pipeline.records.overview import Overview
from pipeline.records.retention import Retention
from pipeline.records.summary import write_summary
from pipeline.stages.stage import Stage

__all__ = ["Collect", "Session", "on_signals", "threads"]

Collect: TypeAlias = Callable[[str, int, Any], list[Any] | None]
"""(name, stage, part): hand in a stage's part of something; whoever is the last to do so gets the parts of all."""


class Session:
    """The record of some stages of a run; as a context manager, it is closed at the end of the block.

    Args:
        prepared: the run.
        stages: the stages of this process, not yet started.
        folder: the run's folder, or None: nothing is written.
        resume: put the stages into the state of one of the folder's checkpoints.
        choose: says which one; all processes of a run have to go on from the same.
        collect: brings together what the stages hand in; needed where they live in several processes.
    """

    def __init__(
        self,
        prepared: Prepared,
        stages: Sequence[Stage],
        *,
        folder: Path | None,
        resume: bool,
        choose: Callable[[Path], tuple[Path, Manifest]] = checkpoint.latest,
        collect: Collect | None = None,
    ) -> None:
        self._prepared = prepared
        self._folder = folder
        self._collect = collect or _collector(prepared.num_stages)
        self._started_s = time.perf_counter()
        self._saved: dict[int, int] = {}
        """By stage, the step of its newest file."""
        self._just_saved: int | None = None
        self._passed: int | None = None
        self._evaluated: int | None = None
        self._retention: Retention | None = None
        self.start = 0
        """The step this session begins at."""
        if folder is not None:
            self._begin(stages, folder / "checkpoints", choose=choose if resume else None)
        self._monitors = {
            stage.index: StageMonitor(stage, folder=folder, log_every=prepared.config.log_every, since=self.start)
            for stage in stages
        }
        self._overview = Overview(folder, prepared) if folder is not None and 0 in self._monitors else None

    def look(self, stage: Stage) -> bool:
        """Take down what a stage has done, if an interval is over; True if it was.

        To be called after every message, and after the stage has resumed if it was drained.

        Raises:
            SaveFailure: it could not be written.
            StageFailure: something else is wrong with it.
        """
        monitor = self._monitors[stage.index]
        with blaming(stage.index, step=monitor.status.step, phase="record"):
            try:
                if stage.is_last and self._retention is not None:
                    self._tend(monitor, self._retention)
                return monitor.look()
            except OSError as error:
                raise self._failure(monitor, error) from error

    def statuses(self) -> list[StageStatus]:
        """The present of every stage."""
        return [monitor.status for monitor in self._monitors.values()]

    def drained(self, stage: Stage, drain: Drain) -> None:
        """Save a drained stage if the drain asks for it; whoever saves last declares the checkpoint whole.

        Raises:
            SaveFailure: it could not be written.
            StageFailure: something else is wrong with it.
        """
        if self._folder is None:
            return
        saved = self._saved.get(stage.index) == drain.step
        if drain.save and not saved:
            with blaming(stage.index, step=drain.step, phase="checkpoint"):
                try:
                    self._save(stage, drain, self._folder / "checkpoints")
                except OSError as error:
                    raise self._failure(self._monitors[stage.index], error, step=drain.step) from error
        elif stage.is_last and saved and not drain.save:
            self._evaluated = drain.step

    def close(self) -> None:
        """Write what is left and close the files.

        Raises:
            SaveFailure: it could not be written.
        """
        with ExitStack() as stack:  # all of them, whichever fails
            for monitor in self._monitors.values():
                stack.callback(self._close_one, monitor)

    def __enter__(self) -> Session:
        if self._overview is not None:
            try:
                self._overview.begin(self.start)
            except OSError as error:
                raise self._failure(self._monitors[0], error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        failure = error
        try:
            self.close()
        except Exception as later:  # on a disk that is full, closing fails like what failed before
            failure = error or later
            if error is None:
                raise
            error.add_note(f"Then also: {type(later).__name__}: {later}")
        finally:
            if failure is not None and self._overview is not None:
                with suppress(OSError):  # what has failed is said by the error itself
                    self._overview.fail(failure, self._monitors[0].status.step)

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Write the content of summary.json, if the first stage lives here; after the session was closed.

        Raises:
            OSError: it could not be written.
        """
        if self._folder is not None and self._overview is not None:
            write_summary(self._folder, summary)
            with suppress(OSError):  # the run is over, and its summary is written
                self._overview.end(summary)

    def entries(self) -> list[dict[str, Any]]:
        """Every stage's entry of summary.json."""
        return [monitor.summary() for monitor in self._monitors.values()]

    def scalars(self) -> dict[str, float | None]:
        """The newest scalars of the uppermost stage here."""
        return self._monitors[max(self._monitors)].scalars()

    @property
    def wall_s(self) -> float:
        """Seconds since the session began."""
        return time.perf_counter() - self._started_s

    def _begin(
        self, stages: Sequence[Stage], checkpoints: Path, *, choose: Callable[[Path], tuple[Path, Manifest]] | None
    ) -> None:
        train = self._prepared.train
        if choose is not None:
            path, manifest = choose(checkpoints)
            checkpoint.load(path, stages, manifest)
            if isinstance(train, StatefulBatches):
                train.restore(manifest.step, checkpoint.read_feed(path))
            self.start = manifest.step
            self._saved = {stage.index: manifest.step for stage in stages}
        if any(stage.index == 0 for stage in stages):
            checkpoint.set_aside_after(checkpoints, self.start)
        if any(stage.is_last for stage in stages):
            config = self._prepared.config
            self._retention = Retention(
                checkpoints, keep_last=config.keep_last, keep_best=config.keep_best, start=self.start
            )

    def _save(self, stage: Stage, drain: Drain, checkpoints: Path) -> None:
        self._monitors[stage.index].flush()  # a run that goes on from here finds the record of what went before
        files: dict[str, FileDigest] = {}
        train = self._prepared.train
        if stage.index == 0 and isinstance(train, StatefulBatches):
            files |= checkpoint.save_feed(checkpoints, train.marked(drain.step), step=drain.step)
        files |= checkpoint.save_stage(checkpoints, stage, step=drain.step)
        self._saved[stage.index] = drain.step
        if stage.is_last:
            self._just_saved = drain.step
        own = {name: asdict(digest) for name, digest in files.items()}
        parts = self._collect(f"saved/{drain.step}", stage.index, own)
        if parts is not None:
            manifest = Manifest(
                step=drain.step,
                num_stages=self._prepared.num_stages,
                exact=resumes_exactly(self._prepared, drain.step),
                finished=drain.finish,
                files={name: FileDigest(**digest) for part in parts for name, digest in part.items()},
            )
            write_manifest(checkpoints, manifest)

    def _tend(self, last: StageMonitor, retention: Retention) -> None:
        """Let old checkpoints go.

        What reaches the last stage after a drain has come through all the others, which have saved themselves before
        they passed it on, and whoever was the last to do so has written the manifest.
        """
        if self._evaluated is not None:
            step, self._evaluated = self._evaluated, None
            last.flush()
            results = {name: value for name, value in last.scalars().items() if name.startswith("test_")}
            retention.evaluated(step, results)
        if self._passed is not None:
            retention.whole(self._passed)
        self._passed, self._just_saved = self._just_saved, None

    def _close_one(self, monitor: StageMonitor) -> None:
        try:
            monitor.close()
        except OSError as error:
            raise self._failure(monitor, error) from error

    def _failure(self, monitor: StageMonitor, error: OSError, *, step: int | None = None) -> SaveFailure:
        assert self._folder is not None
        step = monitor.status.step if step is None else step
        return SaveFailure(stage=monitor.stage.index, step=step, folder=self._folder, cause=error)


def _collector(num_parts: int) -> Collect:
    """Brings together the parts of stages that live in one process, maybe on several threads."""
    parts: dict[str, dict[int, Any]] = {}
    counters: dict[str, Iterator[int]] = {}

    def collect(name: str, stage: int, part: Any) -> list[Any] | None:
        parts.setdefault(name, {})[stage] = part
        # Taking the next number is one operation that no other thread divides, so exactly one thread gets the last.
        if next(counters.setdefault(name, itertools.count(1))) < num_parts:
            return None
        del counters[name]
        return list(parts.pop(name).values())

    return collect


@contextmanager
def threads(num_threads: int) -> Iterator[None]:
    """Use this many intra-op threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def on_signals(action: Callable[[], None], *, active: bool) -> Iterator[None]:
    """Inside the block, SIGINT (Ctrl-C) and SIGTERM (which torchrun forwards) call `action` instead of ending us."""
    if not active:
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: action()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
