"""Which random numbers belong to (seed, name, step)?

Every draw is keyed, never taken from a shared stream: interleaving must not change what is drawn, and processes must
agree without talking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeAlias

import torch

from pipeline.errors import RunError
from pipeline.randomness.turns import Turns

__all__ = ["Generators", "Phase", "generator", "key", "seeded", "undisturbed"]

Phase: TypeAlias = Literal["forward", "evaluation", "estimate", "learn", "imagine", "learn input", "backward", "update"]
"""What a stage does that may draw: its module's forward, in training (also again, for a backward) and in evaluation;
its source's estimate and learning; a synthetic input and its learning; a backward through its module; its optimiser's
step."""


def key(seed: int, name: str, step: int) -> int:
    """A 63-bit number that depends on all three, the same on every machine and Python version."""
    digest = hashlib.blake2b(f"{seed}/{name}/{step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, name: str, step: int) -> torch.Generator:
    """A fresh CPU generator for the draws of `name` at `step`."""
    return torch.Generator().manual_seed(key(seed, name, step))


def seeded(seed: int, name: str, step: int, *, device: torch.device) -> None:
    """Start the process-wide generators at (seed, name, step), for modules that draw from them (dropout).

    The generators are seeded directly: `torch.manual_seed` also formats a stack trace on machines without CUDA, which
    costs more than a small stage's forward.
    """
    value = key(seed, name, step)
    for each in _defaults(device):
        each.manual_seed(value)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Give the caller's process-wide CPU generator back as it was."""
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class Generators:
    """The process-wide generators, as the code of one stage draws from them.

    `with generators.at(phase, step):` starts them at (seed, phase and stage, step). Where several threads draw from
    them, a stage does so in its turn, and a stage that does not draw neither seeds nor waits. That it does not was seen
    on one batch, so it is checked at its first step and then every `check_every` steps, with its turn taken; the steps
    between are the price of not waiting.

    Args:
        seed: the run's.
        stage: index of the stage.
        device: where it runs.
        turns: of the threads that draw from the same generators; None: nobody else draws.
        draws: phases in which the stage was found to draw.
        check_every: steps from one check of the others to the next; 0: at the first step only.
        waited: told how many seconds a turn was waited for.
    """

    def __init__(
        self,
        *,
        seed: int,
        stage: int,
        device: torch.device,
        turns: Turns | None = None,
        draws: frozenset[Phase] = frozenset(),
        check_every: int = 0,
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._seed, self._stage, self._device = seed, stage, device
        self._turns = turns
        self._draws = draws
        self._check_every = check_every
        self._waited = waited
        self._checked: set[Phase] = set()

    @contextmanager
    def at(self, phase: Phase, step: int) -> Iterator[None]:
        """Let the block draw the numbers of `phase` at `step`.

        Raises:
            RunError: the stage drew, was found not to, and others draw from the same generators.
        """
        turns = self._turns
        if turns is None:
            self._start(phase, step)
            yield
        elif phase in self._draws:
            with turns.alone(self._waited):
                self._start(phase, step)
                yield
        elif turns.suspicious or self._is_to_be_checked(phase, step):
            with turns.watched(self._state, drew=lambda: self._unforeseen(phase, step), waited=self._waited):
                yield
        else:
            with turns.beside(self):
                yield

    @contextmanager
    def forked(self) -> Iterator[None]:
        """For code that puts the generators into another state and back: building a source, changing the structure.

        A source that draws from them without that draws the same in every run.
        """
        with nullcontext() if self._turns is None else self._turns.alone(self._waited):
            seeded(self._seed, f"build/{self._stage}", 0, device=self._device)
            yield

    def _start(self, phase: Phase, step: int) -> None:
        name = "optimizer" if phase == "update" else phase  # `update` draws whether a stage learns from a step at all
        seeded(self._seed, f"{name}/{self._stage}", step, device=self._device)

    def _is_to_be_checked(self, phase: Phase, step: int) -> bool:
        if phase not in self._checked:
            self._checked.add(phase)
            return True
        return self._check_every > 0 and (step + 1) % self._check_every == 0

    def _state(self) -> list[bytes]:
        return [each.get_state().numpy().tobytes() for each in _defaults(self._device)]

    def _unforeseen(self, phase: Phase, step: int) -> RunError:
        return RunError(
            f"stage {self._stage} drew from PyTorch's process-wide generator in {phase} at step {step}, though it did "
            "not on the first batch (or something beside the stages drew, such as a thread that fetches data). "
            "With executor threads other stages draw from that generator meanwhile, so the numbers are not those of "
            "the seed. Set `draws = True` on the stage's module (on its source, if that draws), which then takes "
            "turns; let it draw from a torch.Generator of its own; or use executor simulate or distributed."
        )


def _defaults(device: torch.device) -> list[torch.Generator]:
    """The process-wide generators that code on `device` draws from."""
    if device.type != "cuda":
        return [torch.default_generator]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]
