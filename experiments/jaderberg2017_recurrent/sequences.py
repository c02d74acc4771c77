"""Which sequences must be copied, and how long have they become?

Letters: L vectors shown, R times to be repeated, N samples, B bits of a vector.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["BITS", "INPUTS", "Curriculum", "Level", "Sequences", "Task", "draw", "num_outputs"]

Task: TypeAlias = Literal["copy", "repeat_copy"]

BITS = 8
"""B, of each vector."""
INPUTS = BITS + 2
"""Beside the bits: a mark after the last vector, and how often to repeat them."""
_COUNT_SCALE = 0.1


@dataclass(frozen=True)
class Level:
    """How long sequences are."""

    num_vectors: int = 1
    """L."""
    num_repeats: int = 1
    """R; 1 in Copy."""

    @property
    def score(self) -> int:
        """Vectors to be written, L R."""
        return self.num_vectors * self.num_repeats


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """N sequences of one length, time first."""

    x: Tensor
    """(steps, N, INPUTS): L vectors, the mark, then nothing."""
    targets: Tensor
    """(steps, N, outputs): after the mark the vectors, R times."""
    asked: Tensor
    """(steps,): 1 where an answer counts."""


def num_outputs(task: Task) -> int:
    """Bits of an answer: Repeat Copy must also say when it is done."""
    return BITS + (task == "repeat_copy")


def draw(task: Task, level: Level, *, num_samples: int, generator: torch.Generator) -> Sequences:
    """Random sequences of this length.

    Copy: L + 1 + L steps. Repeat Copy: L + 1 + L R steps, and a last one whose answer is the mark of the end.
    """
    shown, answers = level.num_vectors, level.score + (task == "repeat_copy")
    vectors = torch.randint(0, 2, (shown, num_samples, BITS), generator=generator).float()
    x = torch.zeros(shown + 1 + answers, num_samples, INPUTS)
    x[:shown, :, :BITS] = vectors
    x[shown, :, BITS] = 1.0
    x[shown, :, BITS + 1] = _COUNT_SCALE * level.num_repeats
    targets = torch.zeros(len(x), num_samples, num_outputs(task))
    targets[shown + 1 : shown + 1 + level.score, :, :BITS] = vectors.repeat(level.num_repeats, 1, 1)
    targets[-1, :, BITS:] = 1.0
    asked = torch.zeros(len(x))
    asked[shown + 1 :] = 1.0
    return Sequences(x=x, targets=targets, asked=asked)


@dataclass(kw_only=True)
class Curriculum:
    """Lengthens the sequences by one step as soon as they are solved; Repeat Copy adds a vector and a repeat in turns.

    Every batch is new, so the error that is looked at is one on sequences never seen.
    """

    task: Task
    threshold: float = 0.15
    """Bits per bit asked for: the mean error over `num_batches` batches of a length must lie below it."""
    num_batches: int = 10
    level: Level = field(default_factory=Level)
    solved: Level | None = None
    """The longest solved so far."""
    _errors: deque[float] = field(default_factory=deque)

    @property
    def error(self) -> float | None:
        """Bits per bit asked for, mean over the last batches of the length now learned; None: there was none yet."""
        return sum(self._errors) / len(self._errors) if self._errors else None

    def see(self, error: float) -> bool:
        """A batch of this length had this error, in bits per bit; whether it was the one that solved it."""
        self._errors.append(error)
        if len(self._errors) > self.num_batches:
            self._errors.popleft()
        if len(self._errors) < self.num_batches or sum(self._errors) / self.num_batches >= self.threshold:
            return False
        self._errors.clear()
        self.solved, self.level = self.level, self._next()
        return True

    def _next(self) -> Level:
        vectors, repeats = self.level.num_vectors, self.level.num_repeats
        if self.task == "copy" or vectors == repeats:
            return Level(vectors + 1, repeats)
        return Level(vectors, repeats + 1)
