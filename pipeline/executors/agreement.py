"""How do ranks come to run the same thing? Rank 0 decides, the others hear of it, or of its failure to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pipeline.configuration.config import Config
from pipeline.configuration.prepared import Outline, Prepared
from pipeline.configuration.run import prepare, prepare_outlined
from pipeline.errors import ConfigurationError
from pipeline.executors.attempt import Start
from pipeline.records import checkpoint
from pipeline.records.manifest import Manifest
from pipeline.transports.control import Control
from pipeline.transports.placement import Choice, Place, choose, choose_direct, device_of, place

__all__ = ["agree_on_checkpoint", "agree_on_start", "agree_on_transport", "prepare_together"]

_T = TypeVar("_T")


def prepare_together(config: Config, control: Control) -> Prepared:
    """Rank 0 has the first stage, so it loads the data and checks the run; the others take over what it found.

    Raises:
        ConfigurationError: on every rank, if the run cannot work; rank 0 has the message.
    """
    prepared = _prepare_first(config, control) if control.world.rank == 0 else _prepare_other(config, control)
    agree_on_transport(prepared, control)
    return prepared


def agree_on_transport(prepared: Prepared, control: Control) -> tuple[list[Choice], dict[tuple[int, int], Choice]]:
    """How messages cross each boundary, and go beside the chain, by the stages that send and receive, now that every
    rank can say where it is.

    Raises:
        ConfigurationError: on every rank, if a transport was asked for that cannot work between two of them.
    """
    config, world = prepared.config, control.world
    device = device_of(config.device, local_rank=world.local_rank)
    control.put(f"place/{world.rank}", asdict(Place.here(device)))
    places = [Place(**found) for found in control.gather([f"place/{rank}" for rank in range(world.world_size)])]
    placement = place(prepared.num_stages, world.world_size)
    return (
        choose(config, placement, places),
        {ends: choose_direct(config, placement, places, sender=ends[0], receiver=ends[1]) for ends in prepared.direct},
    )


def _prepare_first(config: Config, control: Control) -> Prepared:
    prepared = _told(control, "outline", lambda: prepare(config, num_ranks=control.world.world_size))
    control.put("outline", asdict(prepared.outline))
    return prepared


def _prepare_other(config: Config, control: Control) -> Prepared:
    outline = _heard(control, "outline")
    return prepare_outlined(
        config,
        Outline(
            starts=None if outline["starts"] is None else tuple(outline["starts"]),
            modifies_input=tuple(outline["modifies_input"]),
            draws=tuple(map(tuple, outline["draws"])),
            exact_feed=outline["exact_feed"],
            evaluates=outline["evaluates"],
            steps_per_epoch=outline["steps_per_epoch"],
        ),
    )


def agree_on_start(control: Control, decide: Callable[[], Start]) -> Start:
    """Where the run is kept and whether it goes on from there; rank 0 decides."""
    if control.world.rank != 0:
        heard = _heard(control, "begin")
        return Start(folder=Path(heard["folder"]), step=heard["step"])
    start = _told(control, "begin", decide)
    control.put("begin", {"folder": str(start.folder), "step": start.step})
    return start


def agree_on_checkpoint(control: Control, checkpoints: Path) -> tuple[Path, Manifest]:
    """The newest whole checkpoint, which rank 0 looks for and verifies.

    Raises:
        CheckpointError: on rank 0: there is none.
        RemoteFailure: on the others, if rank 0 has found none.
    """
    if control.world.rank == 0:
        folder, manifest = checkpoint.latest(checkpoints)
        control.put("checkpoint", {"folder": folder.name, "manifest": asdict(manifest)})
        return folder, manifest
    (told,) = control.gather(["checkpoint"])
    return checkpoints / told["folder"], Manifest.of(told["manifest"])


def _told(control: Control, key: str, action: Callable[[], _T]) -> _T:
    """Do something on behalf of all ranks; if it cannot be done, the others hear of it under `key`."""
    try:
        return action()
    except ConfigurationError:
        control.put(key, None)
        raise


def _heard(control: Control, key: str) -> Any:
    (value,) = control.gather([key])
    if value is None:
        raise ConfigurationError("rank 0 says what is wrong with the configuration.")
    return value
