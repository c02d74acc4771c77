"""Where does each stage live, and how do messages get from one to the next?

The kind of an edge follows from the setting `transport` and from the places of the two ranks, so every rank that knows
all places comes to the same. Before the ranks have started, all of them are taken to be on this host.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import torch.distributed as dist

from pipeline.configuration.config import Config, Transport, per_stage
from pipeline.errors import ConfigurationError

__all__ = [
    "Choice",
    "Kind",
    "Place",
    "check_transport",
    "choose",
    "choose_direct",
    "device_of",
    "place",
    "places_here",
    "planned",
]

Kind: TypeAlias = Literal["in process", "shared", "gloo", "nccl"]


def place(num_stages: int, num_ranks: int) -> list[int]:
    """The rank of each stage: neighbouring stages share a rank, as evenly as can be."""
    return [stage * num_ranks // num_stages for stage in range(num_stages)]


def device_of(wanted: str, *, local_rank: int) -> torch.device:
    """Where a rank's stages run: on a GPU if there is one and it is wanted; ranks share them if there are fewer."""
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a rank is, as far as it matters for how messages get there; as JSON between ranks."""

    host: str
    """Name of the machine, for people."""
    memory: str
    """Equal for ranks that can share memory: boot of the kernel, network namespace and user; empty: this one cannot."""
    gpu: str
    """Which GPU the rank's stages are on; empty: the CPU."""
    nccl: bool
    """Whether NCCL is there."""

    @staticmethod
    def here(device: torch.device) -> Place:
        """This process, with its stages on `device`."""
        return Place(
            host=platform.node(),
            memory=_shared_memory(),
            gpu=str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else "",
            nccl=dist.is_nccl_available(),
        )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How messages cross a boundary, both ways."""

    kind: Kind
    why: str


def choose(config: Config, placement: Sequence[int], places: Sequence[Place]) -> list[Choice]:
    """The kind of every boundary's edges.

    Args:
        config: the run.
        placement: the rank of each stage.
        places: of every rank.

    Raises:
        ConfigurationError: a transport was asked for that cannot work between two ranks.
    """
    wanted = per_stage(config.transport, len(placement) - 1, name="transport")
    return [
        _choose(wanted[lower], (placement[lower], placement[lower + 1]), places, boundary=f"{lower}-{lower + 1}")
        for lower in range(len(wanted))
    ]


def choose_direct(
    config: Config, placement: Sequence[int], places: Sequence[Place], *, sender: int, receiver: int
) -> Choice:
    """The kind of an edge that joins two stages without those between them: see `Prepared.direct`.

    It is chosen as by `auto`, or gloo where that is set for all boundaries: what is set is said of neighbours.
    """
    wanted: Transport = "gloo" if set(config.transport) == {"gloo"} else "auto"
    return _choose(wanted, (placement[sender], placement[receiver]), places, boundary=f"{sender}-{receiver}")


def planned(config: Config, placement: Sequence[int]) -> list[Choice]:
    """The kind of every boundary's edges if all ranks are on this host."""
    return choose(config, placement, places_here(config, placement))


def places_here(config: Config, placement: Sequence[int]) -> list[Place]:
    """Where the ranks are if all of them are on this host."""
    memory, nccl = _shared_memory(), dist.is_nccl_available()
    devices = [device_of(config.device, local_rank=rank) for rank in range(max(placement) + 1)]
    gpus = [str(device) if device.type == "cuda" else "" for device in devices]
    return [Place(host="this host", memory=memory, gpu=gpu, nccl=nccl) for gpu in gpus]


def check_transport(config: Config, placement: Sequence[int]) -> None:
    """Warn of a transport that has no effect.

    Raises:
        ConfigurationError: there are neither one nor one per boundary.
    """
    wanted = per_stage(config.transport, len(placement) - 1, name="transport")
    if set(wanted) <= {"auto"}:
        return
    if config.executor != "distributed":
        warnings.warn(
            f"transport {', '.join(config.transport)} has no effect: the executor {config.executor} has one process. "
            "Leave it at auto.",
            stacklevel=3,
        )
        return
    crosses = [lower != upper for lower, upper in pairwise(placement)]
    idle = [lower for lower in range(len(wanted)) if wanted[lower] != "auto" and not crosses[lower]]
    if idle and (len(config.transport) > 1 or not any(crosses)):
        where = ", ".join(f"{lower}-{lower + 1}" for lower in idle)
        warnings.warn(
            f"transport has no effect at boundary {where}, whose stages share a rank. Leave it at auto there.",
            stacklevel=3,
        )


def _choose(wanted: Transport, ranks: tuple[int, int], places: Sequence[Place], *, boundary: str) -> Choice:
    lower, upper = (places[rank] for rank in ranks)
    if ranks[0] == ranks[1]:
        return Choice(kind="in process", why="one rank")
    obstacles = {"shared": _against_shared(lower, upper), "nccl": _against_nccl(lower, upper), "gloo": ""}
    if wanted == "auto":
        kinds: tuple[Literal["shared", "nccl", "gloo"], ...] = ("shared", "nccl", "gloo")
        kind = next(kind for kind in kinds if not obstacles[kind])
        return Choice(
            kind=kind, why={"shared": "one host", "nccl": "a GPU each, on two hosts", "gloo": obstacles["shared"]}[kind]
        )
    if obstacles[wanted]:
        raise ConfigurationError(
            f"transport {wanted} cannot work at boundary {boundary}, between rank {ranks[0]} on {lower.host} and rank "
            f"{ranks[1]} on {upper.host}: {obstacles[wanted]}. Set it to auto or gloo."
        )
    return Choice(kind=wanted, why="as set")


def _against_shared(a: Place, b: Place) -> str:
    if not (a.memory and b.memory):
        return "memory is shared on Linux only"
    return "" if a.memory == b.memory else "hosts, containers or users differ"


def _against_nccl(a: Place, b: Place) -> str:
    if not (a.gpu and b.gpu):
        return "NCCL needs stages on GPUs"
    if not (a.nccl and b.nccl):
        return "this PyTorch was built without NCCL"
    return "" if a.gpu != b.gpu else "NCCL refuses two ranks on one GPU"


def _shared_memory() -> str:
    """What ranks must have in common to share memory: see `pipeline.transports.shared_memory`."""
    if not hasattr(os, "memfd_create"):
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}/{os.geteuid()}"
    except OSError:  # a Linux without /proc
        return ""
