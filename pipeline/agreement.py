"""How do ranks come to run the same thing? Rank 0 decides, the others hear of it, or of its failure to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pipeline.attempt import Start
from pipeline.config import Config
from pipeline.control import Control
from pipeline.errors import ConfigurationError
from pipeline.run import Outline, Prepared, prepare, prepare_outlined

__all__ = ["agree_on_start", "prepare_together"]

_T = TypeVar("_T")


def prepare_together(config: Config, control: Control) -> Prepared:
    """Rank 0 has the first stage, so it loads the data and checks the run; the others take over what it found.

    Raises:
        ConfigurationError: on every rank, if the run cannot work; rank 0 has the message.
    """
    if control.world.rank == 0:
        prepared = _told(control, "outline", lambda: prepare(config, num_ranks=control.world.world_size))
        control.put("outline", asdict(prepared.outline))
        return prepared
    outline = _heard(control, "outline")
    return prepare_outlined(
        config,
        Outline(
            starts=None if outline["starts"] is None else tuple(outline["starts"]),
            modifies_input=tuple(outline["modifies_input"]),
            exact_feed=outline["exact_feed"],
            evaluates=outline["evaluates"],
        ),
    )


def agree_on_start(control: Control, decide: Callable[[], Start]) -> Start:
    """Where the run is kept and whether it goes on from there; rank 0 decides."""
    if control.world.rank != 0:
        heard = _heard(control, "begin")
        return Start(folder=Path(heard["folder"]), resume=heard["resume"])
    start = _told(control, "begin", decide)
    control.put("begin", {"folder": str(start.folder), "resume": start.resume})
    return start


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
