"""Which messages enter the network, in which order?

The feed turns data into what the first stage receives: training microbatches, the drains at which checkpoints are
written and evaluations run, and the end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from pipeline.data.stateful import Stateful, StatefulBatches
from pipeline.errors import ConfigurationError, RunError, blaming
from pipeline.messages import Activation, Drain, Message, Payload, Stop
from pipeline.randomness.keyed import generator, seeded, undisturbed

__all__ = ["Batch", "Batches", "Feed", "FeedSettings", "KeyedBatches", "ReadBatches", "batches"]

_CPU = torch.device("cpu")

Batch: TypeAlias = tuple[Payload, Tensor | None]
"""(x, target): the network's input (N, ...) and its labels (N, ...)."""


@runtime_checkable
class Batches(Protocol):
    """Microbatches by step, from a given one on."""

    exact: bool
    """Whether a resumed run sees the same microbatches as one never stopped."""

    def peek(self) -> Batch:
        """The first microbatch, to learn shapes from; it is not used up."""

    def start(self, step: int) -> Iterator[Batch]:
        """The microbatches of `step`, `step` + 1, ... without end."""


class KeyedBatches:
    """Microbatches of tensors in memory, shuffled anew each epoch by a draw keyed by the epoch.

    Args:
        x: inputs, (M, ...).
        target: labels, (M, ...).
        batch_size: N; the last microbatch of an epoch may be shorter.
        seed: of the shuffling; None: the run's.
        drop_last: leave out a shorter last microbatch.
    """

    exact = True
    draws = False

    def __init__(
        self, x: Tensor, target: Tensor, *, batch_size: int, seed: int | None = None, drop_last: bool = False
    ) -> None:
        if len(x) != len(target):
            raise ConfigurationError(f"inputs and labels must pair up, got {len(x)} inputs and {len(target)} labels.")
        if not 1 <= batch_size <= len(x):
            raise ConfigurationError(f"batch_size must lie in [1, {len(x)}] (the samples there are), got {batch_size}.")
        self.x, self.target = x, target
        self.batch_size = batch_size
        self.seed = seed
        whole, rest = divmod(len(x), batch_size)
        self.steps_per_epoch = whole if drop_last or rest == 0 else whole + 1

    def peek(self) -> Batch:
        """The first microbatch."""
        return next(self.start(0))

    def start(self, step: int) -> Iterator[Batch]:
        """The microbatches from `step` on."""
        epoch, first = divmod(step, self.steps_per_epoch)
        while True:
            order = torch.randperm(len(self.x), generator=generator(self.seed or 0, "shuffle", epoch))
            for position in range(first, self.steps_per_epoch):
                chosen = order[position * self.batch_size : (position + 1) * self.batch_size]
                yield self.x[chosen], self.target[chosen]
            epoch, first = epoch + 1, 0


class ReadBatches:
    """Microbatches read from any iterable of (x, target), over and over; resumed by reading and skipping.

    Whatever the iterable draws from the process-wide generator (shuffling, augmentation) is keyed by the step, so that
    it does not depend on what the stages drew in between.

    Args:
        iterable: a DataLoader, a list, or a one-shot iterator with batches enough for the run.
        seed: of those draws.
    """

    exact = False

    def __init__(self, iterable: Iterable[Batch], *, seed: int = 0) -> None:
        self._iterable = iterable
        self._seed = seed
        self._peeked: list[Batch] = []

    def peek(self) -> Batch:
        """The first microbatch, to learn shapes from; it is not used up."""
        if self._peeked:
            return self._peeked[0]
        with undisturbed():
            first = next(self._epoch(0), None)
        if first is None:
            raise ConfigurationError("the data holds no batch; give an iterable of (x, target).")
        if isinstance(self._iterable, Iterator):  # a one-shot iterator has moved on
            self._peeked = [first]
        return first

    def start(self, step: int) -> Iterator[Batch]:
        """The microbatches from `step` on."""
        position = 0
        while True:
            begun = position
            for batch in self._epoch(position):
                if position >= step:
                    yield batch
                position += 1
            if position == begun:
                raise RunError(
                    f"the data ran out after {position} batches: give a loader that can be read again, or fewer steps."
                )

    def _epoch(self, position: int) -> Iterator[Batch]:
        yield from self._take_peeked()
        seeded(self._seed, "data", position, device=_CPU)
        iterator = iter(self._iterable)
        while True:
            seeded(self._seed, "data", position, device=_CPU)
            batch = next(iterator, None)
            if batch is None:
                return
            x, target = batch
            yield x, target
            position += 1

    def _take_peeked(self) -> list[Batch]:
        peeked, self._peeked = self._peeked, []
        return peeked


def batches(data: object, *, seed: int) -> Batches:
    """`data` itself if it gives microbatches by step, else a reader of the iterable it is; `seed` is the run's.

    Raises:
        ConfigurationError: it is none, or knows its place in terms that cannot be saved.
    """
    if isinstance(data, KeyedBatches) and data.seed is None:
        data = copy.copy(data)
        data.seed = seed
    if isinstance(data, Batches):
        return data
    if isinstance(data, Stateful):
        return StatefulBatches(data, seed=seed)
    if isinstance(data, Iterable):
        return ReadBatches(data, seed=seed)
    raise ConfigurationError(f"data must be an iterable of (x, target) batches, got {type(data).__name__}.")


@dataclass(frozen=True, kw_only=True)
class FeedSettings:
    """What the feed sends when."""

    steps: int
    """Training microbatches of the whole run."""
    evaluate_every: int = 0
    """Steps from one evaluation to the next; 0: at the end only."""
    checkpoint_every: int = 0
    """Steps from one scheduled checkpoint to the next; 0: at the end only."""


class Feed:
    """The messages for the first stage.

    Args:
        train: training microbatches.
        test: evaluation batches, in order; none: no evaluation.
        settings: what is sent when.
        start: the step to begin at (a resumed run's checkpoint).
        probe: what each evaluation ends with; None: nothing more.
    """

    def __init__(
        self,
        train: Batches,
        test: Sequence[Batch],
        *,
        settings: FeedSettings,
        start: int = 0,
        probe: Activation | None = None,
    ) -> None:
        self._train, self._test = train, test
        self._probe = probe
        self._settings = settings
        self._start = start
        self._interrupted = False
        self.stopped_at = start
        """Training steps sent so far, those before `start` included."""

    @property
    def draws(self) -> bool:
        """Whether reading may draw from the process-wide generators; microbatches of tensors in memory do not."""
        return getattr(self._train, "draws", True)

    def interrupt(self) -> None:
        """Drain, save and stop at the next step; safe to call from a signal handler."""
        self._interrupted = True

    def messages(self) -> Iterator[Message]:
        """Everything the first stage receives, in order; made as it is asked for."""
        settings = self._settings
        step = self._start
        source = self._train.start(step) if step < settings.steps else iter(())
        if 0 < step < settings.steps and _falls_on(step, settings.evaluate_every):
            yield from self._evaluation(step)  # a checkpoint is written before the evaluation of its step
        while step < settings.steps:
            if self._interrupted:
                yield self._save(step)
                yield Stop(step=step)
                return
            with blaming(0, step=step, phase="data"):
                x, target = next(source)
            yield Activation(step=step, h=x, target=target)
            step += 1
            self.stopped_at = step
            if step < settings.steps:
                yield from self._between(step)
        yield self._save(step, finish=True)
        yield from self._evaluation(step)
        yield Stop(step=step)

    def _between(self, step: int) -> Iterator[Message]:
        save = _falls_on(step, self._settings.checkpoint_every)
        evaluate = _falls_on(step, self._settings.evaluate_every)
        if save:
            yield self._save(step)
        elif evaluate:
            yield Drain(step=step)
        if evaluate:
            yield from self._evaluation(step)

    def _save(self, step: int, *, finish: bool = False) -> Drain:
        """The drain of a checkpoint; now, and not once it is carried out, no later microbatch has been taken."""
        if isinstance(self._train, StatefulBatches):
            self._train.mark(step)
        return Drain(step=step, save=True, finish=finish)

    def _evaluation(self, step: int) -> Iterator[Message]:
        if not self._test:
            return
        for number, (x, target) in enumerate(self._test):
            yield Activation(step=number, h=x, target=target, training=False)
        if self._probe is not None:
            yield self._probe
        yield Drain(step=step)


def _falls_on(step: int, period: int) -> bool:
    return period > 0 and step % period == 0
