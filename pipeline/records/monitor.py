"""Where can a researcher see what each stage does, while it does it and afterwards?

Per stage: metrics/stage-<i>.jsonl, trace/stage-<i>.jsonl and TensorBoard events of its own, so that the stages lie
over one another in every chart. Nothing here is asked by a stage: monitors read its recorder between messages.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

import torch

from pipeline.configuration.conditions import Conditions
from pipeline.records.board import Board, board_of
from pipeline.records.order import OrderFile
from pipeline.records.tags import tag_of
from pipeline.stages.histogram import binned
from pipeline.stages.stage import Stage
from pipeline.stages.trace import Event

__all__ = ["StageMonitor", "StageStatus"]

_SINGLE = ("test_", "probe_", "width/", "density/", "structure/")
"""Scalars that stand for themselves, at their own step; others are averaged over an interval."""


@dataclass
class StageStatus:
    """The present of one stage, for a display."""

    stage: int
    step: int = 0
    loss: float | None = None
    source_loss: float | None = None
    samples_per_s: float = 0.0
    waiting_share: float = 0.0
    """Of its time: nothing was there to handle."""
    dropped_share: float = 0.0
    """Of its time: forwards whose output the stage above dropped. The rest is fresh work."""
    staleness: float | None = None
    rank: int = 0
    """Where it lives."""
    silent_s: float = 0.0
    """Since that rank's last sign of life; 0 unless this is longer than it should be."""
    busy: str = ""
    """What it has been doing for a while, as `busy in forward of step 17 for 12 s`; empty: nothing for long."""


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0
    largest: float = 0.0
    latest: float | None = None
    """The mean of the last interval, or a value that is not averaged."""

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1
        self.largest = max(self.largest, value)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class _Interval:
    started_s: float
    waited_s: float = 0.0
    dropped_s: float = 0.0
    num_samples: int = 0
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class StageMonitor:
    """Watches one stage.

    Args:
        stage: the stage.
        folder: the run's folder, or None: nothing is written.
        log_every: steps from one line of metrics to the next.
        since: the step that the run (re)starts at; older files are cut back to it.
    """

    def __init__(self, stage: Stage, *, folder: Path | None, log_every: int, since: int = 0) -> None:
        self.stage = stage
        self.status = StageStatus(stage=stage.index, step=since)
        self._recorder = stage.recorder
        self._log_every = log_every
        self._next_log = log_every
        self._interval = _Interval(started_s=time.perf_counter())
        self._means: dict[str, _Mean] = defaultdict(_Mean)
        self._staleness: Counter[float] = Counter()
        self._metrics = self._trace = self._order = None
        self._changes = None if folder is None else folder / "events" / f"stage-{stage.index}.jsonl"
        if self._changes is not None and self._changes.exists():
            _open(self._changes, since=since).close()
        self._board = None
        if folder is not None:
            conditions = Conditions.here(folder, stage.device)
            self._order = OrderFile(folder, stage.index, since=since, conditions=conditions)
            self._recorder.write_order(self._order.add)
            self._metrics = _open(folder / "metrics" / f"stage-{stage.index}.jsonl", since=since)
            self._trace = _open(folder / "trace" / f"stage-{stage.index}.jsonl", since=since)
            self._board = Board(folder, board_of(stage.index), since=since)

    def look(self) -> bool:
        """Take down what there is if an interval is over; True if it was."""
        if self._recorder.totals.operations.get("F", 0) < self._next_log:
            return False
        self._next_log += self._log_every
        self.flush()
        return True

    def flush(self) -> None:
        """Take down everything the stage has done and measured so far."""
        events = self._recorder.take_events()
        if self._trace is not None:
            self._trace.writelines(_trace_line(event, self.stage.index) for event in events)
            self._trace.flush()
        self._write_changes()
        step = max((event.step for event in events), default=self.status.step)
        single = self._collect()
        self._update_status(step, events)
        scalars = {name: sum(v) / len(v) for name, v in self._interval.values.items()}
        self._write_histograms(step)
        scalars |= {
            "fresh_share": 1.0 - self.status.waiting_share - self.status.dropped_share,
            "waiting_share": self.status.waiting_share,
            "dropped_share": self.status.dropped_share,
            "samples_per_s": self.status.samples_per_s,
            **{f"block_updates/{name}": float(n) for name, n in self._recorder.totals.block_updates.items()},
        }
        if events:
            self._write(step, scalars)
        for at, values in groupby(single, key=itemgetter(1)):
            self._write(at, {name: value for name, _, value in values})
        now_s = time.perf_counter()
        self._interval = _Interval(
            started_s=now_s,
            waited_s=self._recorder.totals.wait_s,
            dropped_s=self._recorder.totals.dropped_s,
            num_samples=self._recorder.totals.num_samples,
        )

    def summary(self) -> dict[str, Any]:
        """The stage's entry in summary.json."""
        totals = self._recorder.totals
        return {
            "index": self.stage.index,
            "samples": totals.num_samples,
            "num_parameters": sum(p.numel() for p in self.stage.module.parameters()),
            "updates": self.stage.version,
            "forwards": totals.operations.get("F", 0),
            "backwards": totals.operations.get("B", 0),
            "dropped": totals.dropped,
            "too_stale": totals.too_stale,
            "most_held": self.stage.stash.most_held,
            "handled": totals.handled,
            "busy_s": totals.busy_s,
            "wait_s": totals.wait_s,
            "dropped_s": totals.dropped_s,
            "overhead_s": totals.overhead_s,
            "operation_s": {
                name: totals.seconds[name] / count
                for name, count in totals.operations.items()
                if name in totals.seconds
            },
            "staleness_mean": self._means["staleness"].mean,
            "staleness_max": self._means["staleness"].largest if self._means["staleness"].count else None,
            "staleness_counts": {str(int(value)): n for value, n in sorted(self._staleness.items())},
            "blocks": {
                name: {
                    "updates": updates,
                    "length_mean": self._means[f"block_length/{name}"].mean,
                    "noise_scale": self._means[f"block_noise_scale/{name}"].latest,
                }
                for name, updates in totals.block_updates.items()
            },
            "changes": dict(totals.changes),
            "source_loss": self._means["source_loss"].latest,
            "gradient_cosine": self._means["gradient_cosine"].latest,
            "probe": {
                name.removeprefix("probe_"): mean.latest
                for name, mean in self._means.items()
                if name.startswith("probe_")
            },
        }

    def scalars(self) -> dict[str, float | None]:
        """The newest value of every scalar: the last interval's mean, or the last test result."""
        return {name: mean.latest for name, mean in self._means.items()}

    def close(self) -> None:
        """Write what is left and close the files."""
        with ExitStack() as closing:  # also if the disk is full
            for file in (self._metrics, self._trace, self._order, self._board):
                if file is not None:
                    closing.callback(file.close)
            self.flush()

    def _collect(self) -> list[tuple[str, int, float]]:
        """Put the recorder's scalars into the interval; return those that stand for themselves (tests, probes)."""
        single = []
        for name, step, value in self._recorder.take_values():
            self._means[name].add(value)
            if name == "staleness":
                self._staleness[value] += 1
            if name.startswith(_SINGLE):
                self._means[name].latest = value
                single.append((name, step, value))
            else:
                self._interval.values[name].append(value)
        for name, values in self._interval.values.items():
            self._means[name].latest = sum(values) / len(values)
        return single

    def _write_changes(self) -> None:
        """Changes of structure: a line each, and a text in TensorBoard."""
        for step, what in self._recorder.take_changes():
            if self._changes is not None:
                self._changes.parent.mkdir(exist_ok=True)
                with self._changes.open("a") as file:
                    file.write(json.dumps({"step": step, "stage": self.stage.index, "change": what}) + "\n")
            if self._board is not None:
                self._board.text("structure/changes", what, step)

    def _write_histograms(self, step: int) -> None:
        histograms = self._recorder.take_histograms()
        if self._board is None:
            return
        for tag, at, histogram in histograms:
            self._board.histogram(tag, histogram, at)
        staleness = binned(torch.tensor(self._interval.values.get("staleness", [])))
        if staleness is not None:
            self._board.histogram("pipeline/staleness_histogram", staleness, step)

    def _update_status(self, step: int, events: list[Event]) -> None:
        elapsed_s = max(time.perf_counter() - self._interval.started_s, 1e-9)
        waited_s = self._recorder.totals.wait_s - self._interval.waited_s
        dropped_s = self._recorder.totals.dropped_s - self._interval.dropped_s
        num_samples = self._recorder.totals.num_samples - self._interval.num_samples
        busy_s = sum(event.end_s - event.start_s for event in events)
        self.status.step = step
        self.status.loss = self._means["loss"].latest
        self.status.source_loss = self._means["source_loss"].latest
        self.status.staleness = self._means["staleness"].latest
        if num_samples:
            self.status.samples_per_s = num_samples / elapsed_s
        if waited_s + busy_s > 0:
            self.status.waiting_share = waited_s / (waited_s + busy_s)
            self.status.dropped_share = dropped_s / (waited_s + busy_s)

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        if self._metrics is not None:
            line = {"step": step, "version": self.stage.version, "time": time.time(), **scalars}
            self._metrics.write(json.dumps(line) + "\n")
            self._metrics.flush()
        if self._board is not None:
            self._board.scalars({tag_of(name): value for name, value in scalars.items()}, step)


def _open(path: Path, *, since: int) -> TextIO:
    """Open for appending; a resumed run repeats the steps after its checkpoint, so their lines are dropped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = []
    if path.exists():
        lines = (line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n"))
        kept = [line for line in lines if json.loads(line)["step"] < since]
    file = path.open("w")
    file.writelines(kept)
    file.flush()  # a process that is killed loses what it has not passed on
    return file


def _trace_line(event: Event, stage: int) -> str:
    return (
        f'{{"event": "{event.name(stage)}", "step": {event.step}, "start_s": {event.start_s:.6f}, '
        f'"end_s": {event.end_s:.6f}, "version": {event.version}, "reach": {event.reach}}}\n'
    )
