"""Which random numbers belong to (seed, name, step)?

Every draw is keyed, never taken from a shared stream: interleaving must not change what is drawn, and processes must
agree without talking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["generator", "key", "seeded", "undisturbed"]


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
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(value)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Give the caller's process-wide CPU generator back as it was."""
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
