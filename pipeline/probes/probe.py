"""What do all probes of a network have in common?

A probe looks at a network at a checkpoint and yields what it finds, as soon as it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from dni import Keyed
from pipeline.probes.network import Network, Samples
from pipeline.probes.settings import ProbeSettings
from pipeline.randomness.keyed import generator
from pipeline.records.findings import Finding, Scalar

__all__ = ["Compare", "OnProgress", "Probe", "finite_scalars", "keyed_by"]

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


class Probe(Protocol):
    """Looks at one network."""

    def __call__(
        self, network: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress, /
    ) -> Iterator[Finding]:
        """What it finds.

        Raises:
            ValueError, TypeError, RuntimeError: it cannot be found out, and why.
        """


class Compare(Protocol):
    """Looks at the network of one run beside that of another, which it is compared with."""

    def __call__(
        self,
        network: Network,
        reference: Network,
        samples: Samples,
        settings: ProbeSettings,
        on_progress: OnProgress,
        /,
    ) -> Iterator[Finding]:
        """What it finds; as `Probe`."""


def keyed_by(settings: ProbeSettings) -> Keyed:
    """Draws by name, the same at every checkpoint and for every run."""
    return lambda name: generator(settings.seed, f"probe/{name}", 0)


def finite_scalars(
    values: Iterable[tuple[str, int | None, float | Tensor]] | Mapping[str, float], *, step: int
) -> Iterator[Scalar]:
    """Scalars of (tag, stage, value); those that are not finite say nothing and are left out."""
    rows = [(tag, None, value) for tag, value in values.items()] if isinstance(values, Mapping) else values
    for tag, stage, value in rows:
        if bool(torch.as_tensor(value).isfinite()):
            yield Scalar(tag=tag, step=step, stage=stage, value=float(value))
