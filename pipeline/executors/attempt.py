"""Which attempt of a restarted run is this, and where does it go on?

torchrun starts every rank again when one has failed (`--max-restarts`, `Config.max_restarts`). Each attempt has keys of
its own in the store; what they share is kept under keys of the run: how many there were, the folder, how it ended.
"""

from __future__ import annotations

import itertools
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.records import checkpoint
from pipeline.transports.control import Control

__all__ = [
    "Start",
    "find_folder",
    "how_it_ended",
    "join_attempt",
    "put_error_aside",
    "remember_end",
    "remember_folder",
    "start_in",
    "wait_end",
]

_MADE_ANEW = ("metrics", "order", "tensorboard", "trace")
"""What a run that starts again from its beginning writes again."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where an attempt begins."""

    folder: Path
    step: int | None = None
    """Of the checkpoint it goes on from; None: it starts at the beginning."""


def join_attempt(control: Control) -> None:
    """Agree with the other ranks on the attempt, and use its keys from here on.

    torchrun's own count will not do: with several hosts, an agent counts the restarts of its own ranks only. So rank 0
    counts, and goes on when every rank has accepted what it offers. A rank may first read what an earlier attempt has
    left; it is meant only if it finds its own token confirmed.
    """
    world, run = control.world, control.for_run()
    if world.rank == 0:
        attempt = run.count("attempts") - 1
        while attempt < world.attempt:  # an earlier one ended before it was counted
            attempt = run.count("attempts") - 1
        run.put("offer", attempt)
        keys = [f"accept/{attempt}/{rank}" for rank in range(1, world.world_size)]
        run.put(f"confirm/{attempt}", run.gather(keys))
    else:
        attempt = _accept(run, rank=world.rank)
    control.enter(attempt)


def _accept(run: Control, *, rank: int) -> int:
    token, accepted = uuid.uuid4().hex, None
    while True:
        if run.has("offer"):
            (offer,) = run.get_many(["offer"])
            if offer != accepted:
                run.put(f"accept/{offer}/{rank}", token)
                accepted = offer
            if run.has(f"confirm/{offer}") and run.get_many([f"confirm/{offer}"])[0][rank - 1] == token:
                return int(offer)
        time.sleep(0.005)


def remember_end(control: Control, code: int) -> None:
    """Whatever restarts after this has nothing to do but to end with the same exit code."""
    control.for_run().put("ended", code)


def how_it_ended(control: Control) -> int | None:
    """The exit code of a run that an earlier attempt has brought to its end; None: it goes on."""
    run = control.for_run()
    return int(run.get_many(["ended"])[0]) if run.has("ended") else None


def wait_end(control: Control) -> None:
    """Wait until it is known how the run has ended."""
    control.for_run().gather(["ended"])


def remember_folder(control: Control, folder: Path) -> None:
    """Say where the run is kept, before the folder is made: what comes in between must not lose it."""
    control.for_run().put("folder", str(folder))


def find_folder(control: Control) -> Path | None:
    """Where an earlier attempt keeps the run, or meant to; None if none got so far. For rank 0, which decides."""
    run = control.for_run()
    return Path(run.get_many(["folder"])[0]) if control.world.rank == 0 and run.has("folder") else None


def start_in(folder: Path) -> Start:
    """Go on in the folder of an earlier attempt: from its last whole checkpoint, or from the beginning."""
    put_error_aside(folder)
    try:
        _, manifest = checkpoint.latest(folder / "checkpoints")
    except CheckpointError:
        for name in _MADE_ANEW:
            shutil.rmtree(folder / name, ignore_errors=True)
        return Start(folder=folder)
    checkpoint.set_aside_after(folder / "checkpoints", manifest.step)
    return Start(folder=folder, step=manifest.step)


def put_error_aside(folder: Path) -> None:
    """Keep error.json and summary.json of an attempt that another one follows, as error-0.json and so on."""
    for name in ("error", "summary"):
        own = folder / f"{name}.json"
        if own.exists():
            numbered = (folder / f"{name}-{number}.json" for number in itertools.count())
            own.rename(next(path for path in numbered if not path.exists()))
