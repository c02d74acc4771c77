"""What is kept of a run while it runs? Monitors, checkpoints and the summary, for the stages of one process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline import checkpoint
from pipeline.errors import blaming
from pipeline.messages import Drain
from pipeline.monitor import StageMonitor, StageStatus
from pipeline.run import Prepared, resumes_exactly
from pipeline.stage import Stage

__all__ = ["Session", "on_signals", "threads"]


class Session:
    """The record of some stages of a run.

    Args:
        prepared: the run.
        stages: the stages of this process, not yet started.
        folder: the run's folder, or None: nothing is written.
        resume: put the stages into the state of the folder's newest checkpoint.
        count: adds one to a named counter that all processes of the run share, and returns it.
    """

    def __init__(
        self,
        prepared: Prepared,
        stages: Sequence[Stage],
        *,
        folder: Path | None,
        resume: bool,
        count: Callable[[str], int],
    ) -> None:
        self._prepared = prepared
        self._folder = folder
        self._count = count
        self._started_s = time.perf_counter()
        self.start = 0
        """The step this session begins at."""
        if resume and folder is not None:
            path, manifest = checkpoint.latest(folder / "checkpoints")
            checkpoint.load(path, stages, manifest)
            self.start = manifest.step
        self._monitors = {
            stage.index: StageMonitor(stage, folder=folder, log_every=prepared.config.log_every, since=self.start)
            for stage in stages
        }

    def look(self, stage: Stage) -> bool:
        """Take down what a stage has done, if an interval is over; True if it was."""
        monitor = self._monitors[stage.index]
        with blaming(stage.index, step=monitor.status.step, phase="record"):
            return monitor.look()

    def statuses(self) -> list[StageStatus]:
        """The present of every stage."""
        return [monitor.status for monitor in self._monitors.values()]

    def drained(self, stage: Stage, drain: Drain) -> None:
        """Save a drained stage if the drain asks for it; whoever saves last declares the checkpoint whole."""
        if self._folder is not None and drain.save:
            with blaming(stage.index, step=drain.step, phase="checkpoint"):
                self._save(self._folder / "checkpoints", stage, drain)

    def _save(self, checkpoints: Path, stage: Stage, drain: Drain) -> None:
        self._monitors[stage.index].flush()  # a run that goes on from here finds the record of what went before
        checkpoint.save_stage(checkpoints, stage, step=drain.step)
        if self._count(f"saved/{drain.step}") == self._prepared.num_stages:
            manifest = checkpoint.Manifest(
                step=drain.step,
                num_stages=self._prepared.num_stages,
                exact=resumes_exactly(self._prepared, drain.step),
                finished=drain.finish,
            )
            checkpoint.write_manifest(checkpoints, manifest)

    def close(self) -> None:
        """Write what is left and close the files."""
        for monitor in self._monitors.values():
            monitor.close()

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
