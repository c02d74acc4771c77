"""Can a run be lived through again, message by message, on one thread?

Each stage handles its next recorded message as soon as it is there, from below, from above or from itself; arrival and
bounds, costs and processes have no say. What a stage computes depends on the order of its own messages only, so the
weights are those of the run, bit for bit, however many processes it had. What enters the first stage is made from that
stage's own record, so that a run that was interrupted or failed is replayed just as well.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.clock import WallClock
from pipeline.configuration.conditions import Conditions
from pipeline.configuration.config import Config, Data
from pipeline.configuration.partition import Partition, partition
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, choose_device, prepare
from pipeline.data.feed import Batch
from pipeline.data.stateful import StatefulBatches
from pipeline.errors import CheckpointError, ConfigurationError, FailureRecord, ReplayError
from pipeline.executors.session import threads
from pipeline.messages import Activation, Input, Message, OutputError, Send
from pipeline.randomness.keyed import undisturbed
from pipeline.records import checkpoint
from pipeline.records.manifest import checkpoint_folder, saved_steps, verify
from pipeline.records.monitor import StageMonitor, StageStatus
from pipeline.records.order import read_order_from, recorded_steps, step_of
from pipeline.replay.comparison import Comparison, refusals
from pipeline.replay.recorded_feed import RecordedFeed
from pipeline.stages.trace import notation

__all__ = ["Replay", "replay"]


def replay(
    run: str | Path,
    stages: Partition | nn.Module | Sequence[nn.Module],
    data: Any,
    *,
    loss: Any,
    start: int = 0,
    until: int | None = None,
    test: Sequence[Batch] = (),
    **settings: Any,
) -> Replay:
    """Replay a run that `train` has recorded: its folder, and what it was given.

    Args:
        run: the run's folder.
        stages: the stages with their initial weights, as they were before `train` changed them.
        data: the same microbatches; the weights can be compared if they are `KeyedBatches`.
        loss: the same loss.
        start: the step of the checkpoint to begin from; 0: the initial weights.
        until: stop before this step is forwarded anywhere.
        test: the same batches to evaluate on.
        **settings: the same fields of `Config`; not needed are steps and what concerns executor and order.

    Returns:
        The replay: `stages` as they are then, `comparison` with the checkpoints; `run` goes on.

    Raises:
        ConfigurationError: nothing can be replayed.
        ReplayError: the record is not one of these stages.
        StageFailure: a stage failed, as it did in the run.
    """
    cut = stages if isinstance(stages, Partition) else partition(stages, settings.get("num_stages"))
    config = Config(
        model=lambda: cut,
        data=lambda: Data(train=data, test=test),
        loss=loss,
        **{"steps": recorded_steps(Path(run))}
        | {name: value for name, value in settings.items() if name != "num_stages"},
    )
    replayed = Replay(prepare(config), Path(run), start=start)
    replayed.run(until=until)
    return replayed


class Replay:
    """The recorded order of a run, on one thread.

    Args:
        prepared: the run, as it was started.
        folder: the run's folder.
        start: the step of the checkpoint to begin from; 0: the initial weights.

    Raises:
        ConfigurationError: nothing was recorded, or not from this step on.
    """

    def __init__(self, prepared: Prepared, folder: Path, *, start: int = 0) -> None:
        config = prepared.config
        self._num_threads = config.num_threads
        attempts = [read_order_from(folder, index, start) for index in range(prepared.num_stages)]
        device = choose_device(config.device)
        with threads(self._num_threads), undisturbed():
            self.stages = [
                build_stage(prepared, index, clock=WallClock(), device=device) for index in range(prepared.num_stages)
            ]
            if start:
                path = _checkpoint(folder / "checkpoints", start)
                checkpoint.load(path, self.stages, verify(path))
                if isinstance(prepared.train, StatefulBatches):
                    prepared.train.restore(start, checkpoint.read_feed(path))
            here = Conditions.here(folder, device)
        conditions = [[attempt.conditions for attempt in parts] for parts in attempts]
        refused = refusals(conditions, here=here, exact_feed=prepared.outline.exact_feed)
        self.comparison = Comparison(folder / "checkpoints", refused)
        """The stages beside the checkpoints of the run, as far as it was replayed."""
        self._remaining = [deque(message for part in parts for message in part.messages) for parts in attempts]
        self.num_steps = sum(message[0] == "A" for message in self._remaining[0])
        """Training microbatches that the first stage took from `start` on."""
        if not self.num_steps:
            raise ConfigurationError(f"{folder} has taken no step from step {start} on: there is nothing to replay.")
        over = all(remaining and remaining[-1][0] == "Z" for remaining in self._remaining)
        self.failure = None if over else _read_failure(folder)
        """What the run has failed with, if it has."""
        if self.failure is not None and self.failure.phase == "data":
            self._remaining[0].append(f"A{self.failure.step}")  # it never came to be handled
        self._handled = ["" for _ in self.stages]
        """The latest message of each stage."""
        self.num_handled = 0
        """Messages handled so far."""
        self._below: list[deque[Message]] = [deque() for _ in self.stages]
        self._above: list[deque[Message]] = [deque() for _ in self.stages]
        self._errors: list[deque[Message]] = [deque() for _ in self.stages]
        self._inputs: list[deque[Message]] = [deque() for _ in self.stages]
        self._feed = RecordedFeed(prepared, start=start)
        self._monitors = [
            StageMonitor(stage, folder=None, log_every=config.log_every, since=start) for stage in self.stages
        ]

    def run(
        self,
        *,
        until: int | None = None,
        on_status: Callable[[Sequence[StageStatus]], None] = lambda statuses: None,
        before_failure: Callable[[], object] = lambda: None,
    ) -> None:
        """Handle what was recorded; can be called again to go on.

        Args:
            until: stop before this step is forwarded anywhere; None: go on to the end.
            on_status: called with every stage's status as they change.
            before_failure: called right before a stage that has failed handles its last message, when nothing else is
                left to do.

        Raises:
            ReplayError: the stages cannot have followed this order.
            StageFailure: a stage failed, as it did in the run.
        """
        with threads(self._num_threads), undisturbed():
            self._handle_all(until, on_status)
            for index in range(len(self.stages)):
                if self._failed_with_next(index) and self._find_message(index, until) is not None:
                    before_failure()
                    self._take_turn(index, until)  # step into this, and there into stage.work
                    self._handle_all(until, on_status)
        self._check_ends(until)

    def ends(self) -> list[str]:
        """Per stage that was not replayed to the end of the run, what is left, or that its record ends before."""
        lines = []
        for stage, remaining, handled in zip(self.stages, self._remaining, self._handled, strict=True):
            if remaining:
                lines.append(f"stage {stage.index}: {len(remaining):,} messages are left, from {remaining[0]} on")
            elif not stage.stopping:
                lines.append(f"stage {stage.index}: its record ends with {handled}")
        return lines

    def _handle_all(self, until: int | None, on_status: Callable[[Sequence[StageStatus]], None]) -> None:
        """Handle whatever can be handled, but not the message that a stage has failed with."""
        order = range(len(self.stages) - 1, -1, -1)  # upper stages first, so that little waits
        while turns := [i for i in order if not self._failed_with_next(i) and self._find_message(i, until) is not None]:
            for index in turns:
                self._take_turn(index, until)
                if self._monitors[index].look():
                    on_status([monitor.status for monitor in self._monitors])

    def _failed_with_next(self, index: int) -> bool:
        return self.failure is not None and self.failure.stage == index and len(self._remaining[index]) == 1

    def _find_message(self, index: int, until: int | None) -> Message | None:
        """The message that the record says is next; None: it is not there yet, or not to be handled."""
        line = next(iter(self._remaining[index]), None)
        if line is None or _is_halted(line, until):
            return None
        if self.stages[index].stopping:
            raise _impossible(index, f"it handles {line} after the end")
        if line[0] == "X":
            return next((m for m in self._below[index] if notation(m) == f"A{line[1:]}"), None)
        if index == 0 and line[0] not in "GO" and not self._below[0]:
            self._below[0].append(self._feed.message(line))
        queue = self._queue(index, line)
        if queue and notation(queue[0]) != line:
            raise _impossible(index, f"it handles {line} next, but {notation(queue[0])} comes before that")
        return queue[0] if queue else None

    def _take_turn(self, index: int, until: int | None) -> None:
        stage, message = self.stages[index], self._find_message(index, until)
        assert message is not None
        self._handled[index] = line = self._remaining[index].popleft()
        queue = self._queue(index, line)
        del queue[next(place for place, waiting in enumerate(queue) if waiting is message)]
        self.num_handled += 1
        if line[0] == "X":
            assert isinstance(message, Activation)
            sends: Iterable[Send] = stage.drop(message)
        else:
            sends = stage.work(message)
        for send in sends:
            self._queue_for(send, sender=index).append(send.message)
        if (drain := stage.drained) is not None:
            if drain.save:
                self.comparison.add(stage, drain.step)
            stage.resume()

    def _queue(self, index: int, line: str) -> deque[Message]:
        """Where a message waits that is written down like this."""
        return {"G": self._above, "O": self._errors, "I": self._inputs}.get(line[0], self._below)[index]

    def _queue_for(self, send: Send, *, sender: int) -> deque[Message]:
        match send.message:
            case OutputError():
                return self._errors[send.to]
            case Input():
                return self._inputs[send.to]
            case _:
                return (self._below if send.to > sender else self._above)[send.to]

    def _check_ends(self, until: int | None) -> None:
        """Refuse a record in which stages wait for one another; where a neighbour's record ends, a stage may wait."""
        for index in range(len(self.stages)):
            seen, at = {index}, index
            while (line := next(iter(self._remaining[at]), None)) is not None and not _is_halted(line, until):
                other = {"G": at + 1, "O": len(self.stages) - 1, "I": 0}.get(line[0], at - 1)
                if other in seen or not 0 <= other < len(self.stages) or self.stages[other].stopping:
                    raise _impossible(at, f"it handles {line} next, and nobody sends that")
                seen.add(other)
                at = other


def _checkpoint(checkpoints: Path, step: int) -> Path:
    if step not in (steps := saved_steps(checkpoints)):
        raise CheckpointError(
            f"{checkpoints} has no checkpoint of step {step} any more (keep_last says how many are kept); there are "
            f"those of step {', '.join(map(str, steps)) or '(none)'}, and 0 is the beginning."
        )
    return checkpoint_folder(checkpoints, step)


def _is_halted(line: str, until: int | None) -> bool:
    return until is not None and line[0] in "AI" and step_of(line) >= until


def _impossible(stage: int, what: str) -> ReplayError:
    return ReplayError(
        f"stage {stage} cannot have handled its messages in the recorded order: {what}. The record "
        f"(order/stage-{stage}.txt, or that of a neighbour) was damaged or changed, or the run had other settings."
    )


def _read_failure(folder: Path) -> FailureRecord | None:
    try:
        return FailureRecord(**json.loads((folder / "error.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None
