"""What does it cost to change the structure of a network while it trains?

    python -m experiments.structure_cost.speed
    python -m experiments.structure_cost.speed --only halved --networks MLP      # one question, one network
    python -m experiments.structure_cost.speed --rounds 1 --no-record            # a look

On one thread for each stage. Every line is appended to results.jsonl. To be run on a machine that does nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeAlias, get_args

import torch
import tyro
from rich.console import Console
from rich.progress import track

from experiments.machine import machine
from experiments.records import append_line
from experiments.structure_cost.masks import MASK_OPTIMIZERS, MASKED, masked
from experiments.structure_cost.networks import NETWORKS
from experiments.structure_cost.runs import OPTIMIZERS, events_ms, halved, standing_still
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["RESULTS", "Options", "Question", "main"]

RESULTS = Path(__file__).parent / "results.jsonl"
Question: TypeAlias = Literal["events", "others", "halved", "masks"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time events of every kind, the steps before and after a pruning, and masks; append all to results.jsonl."""

    only: tuple[Question, ...] = get_args(Question)
    """Questions: how long an event takes, whether others stand still, a network of half the channels, masks."""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """Networks of 10 million parameters; masks have networks of their own."""
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    """Optimisers of the networks of 10 million parameters."""
    rounds: int = 3
    """Runs of each network and optimiser for the time of events."""
    batch_sizes: tuple[int, ...] = (64, 16)
    """Samples of a microbatch of the networks, in their order."""
    steps: int = 10
    """Timed before, and after, half of the units go."""
    mask_batch_sizes: tuple[int, ...] = (128, 512)
    """Samples of a microbatch with masks."""
    turns: int = 20
    """Steps with, and without, masks."""
    record: bool = True
    """Append the results."""


def main(options: Options) -> int:
    """Measure what is asked for."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `dni train` does; else whoever is at the top of the heap pays for page faults
    console, where, run = Console(soft_wrap=True), machine(), time.strftime("%Y-%m-%dT%H:%M:%S")
    for line in track(_lines(options), console=console, total=_num_lines(options), description="measured"):
        console.print(", ".join(f"{name} {value}" for name, value in line.items()), highlight=False)
        if options.record:
            append_line({"run": run, **line, "machine": where}, RESULTS)
    return 0


def _lines(options: Options) -> Iterator[dict[str, Any]]:
    sizes = dict(zip(NETWORKS, options.batch_sizes, strict=True))
    for name, optimizer in product(options.networks, options.optimizers):
        size = sizes[name]
        about = {"network": name, "optimizer": optimizer, "batch_size": size}
        if "events" in options.only:
            rounds = [events_ms(name, optimizer, batch_size=size) for _ in range(options.rounds)]
            took = [
                {
                    "kind": same[0]["kind"],
                    "stages_ms": {
                        stage: round(median(each["stages_ms"][stage] for each in same), 2)
                        for stage in same[0]["stages_ms"]
                    },
                    "largest_ms": max(value for each in same for value in each["stages_ms"].values()),
                }
                for same in zip(*rounds, strict=True)
            ]
            yield {"question": "events", **about, "rounds": options.rounds, "kinds": took}
        if "halved" in options.only:
            yield {"question": "halved", **about, **halved(name, optimizer, batch_size=size, steps=options.steps)}
    for name in options.networks if "others" in options.only else ():
        about = {"network": name, "optimizer": "Adam", "batch_size": sizes[name]}
        yield {"question": "others", **about, **standing_still(name, batch_size=sizes[name])}
    cases = product(MASKED, MASK_OPTIMIZERS, options.mask_batch_sizes)
    for name, optimizer, size in cases if "masks" in options.only else ():
        about = {"network": name, "optimizer": optimizer, "batch_size": size}
        yield {"question": "masks", **about, **masked(name, optimizer, batch_size=size, turns=options.turns)}


def _num_lines(options: Options) -> int:
    networks, optimizers = len(options.networks), len(options.optimizers)
    return (
        networks * optimizers * sum(each in options.only for each in ("events", "halved"))
        + networks * ("others" in options.only)
        + len(MASKED) * len(MASK_OPTIMIZERS) * len(options.mask_batch_sizes) * ("masks" in options.only)
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
