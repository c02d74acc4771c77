"""What do blocks cost, beside a plain optimiser by hand?

    python -m experiments.block_cost.run

In one process, on one thread. All take turns, in an order that changes from round to round, so whatever else the
machine does hits all. Every run is appended to results.jsonl.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import track

from experiments.block_cost.cases import CUTS, OPTIMIZERS, ByHand, InBlocks
from experiments.machine import machine
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["RESULTS", "Options", "compare", "main"]

RESULTS = Path(__file__).parent / "results.jsonl"
_HAND = "by hand"
_CYCLE = 8
"""Steps after which the cadences repeat; a time is the mean over one cycle."""
_WARM_UP = 2
"""Cycles that are not counted."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time updates and whole training steps, in blocks and by hand, and append the medians to results.jsonl."""

    width: int = 1024
    """Features of each hidden layer; three square weights, and a small last one."""
    samples: int = 256
    """Samples of a microbatch."""
    cycles: int = 15
    """Of eight steps each, that are timed with each build."""
    builds: int = 3
    """Times that all are made anew, elsewhere in memory."""
    record: bool = True
    """Append the results."""


def compare(optimizer: str, *, width: int, num_samples: int, cycles: int, builds: int) -> list[dict[str, Any]]:
    """A line for each cut: microseconds of an update and of a training step, and both as ratios to those by hand."""
    timed = [_timed(optimizer, width=width, num_samples=num_samples, cycles=cycles) for _ in range(builds)]
    found = {what: median(times[what] for times in timed) for what in timed[0]}
    return [
        {
            "optimizer": optimizer,
            "cut": cut,
            "width": width,
            "num_samples": num_samples,
            "cycles": cycles,
            "builds": builds,
            **{f"{part}_us": found[cut, part] for part in ("update", "step")},
            **{f"{part}_ratio": found[cut, part] / found[_HAND, part] for part in ("update", "step")},
        }
        for cut in (_HAND, *CUTS)
    ]


def main(options: Options) -> int:
    """Time all cuts with all optimisers."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `dni train` does; else whoever is at the top of the heap pays for page faults
    console = Console()
    where = machine()
    for optimizer in track(OPTIMIZERS, console=console, description="optimisers"):
        lines = compare(
            optimizer,
            width=options.width,
            num_samples=options.samples,
            cycles=options.cycles,
            builds=options.builds,
        )
        for line in lines:
            console.print(
                f"{optimizer}, {line['cut']}: update {line['update_ratio']:.3f}, step {line['step_ratio']:.3f}",
                highlight=False,
            )
            if options.record:
                with RESULTS.open("a") as file:
                    file.write(json.dumps(line | {"machine": where}) + "\n")
    return 0


def _timed(optimizer: str, *, width: int, num_samples: int, cycles: int) -> dict[tuple[str, str], float]:
    """The median over the cycles of the mean time of a step, by who and what, of contenders made anew."""
    factory = OPTIMIZERS[optimizer]
    contenders: dict[str, ByHand | InBlocks] = {_HAND: ByHand(factory, width=width, num_samples=num_samples)}
    contenders |= {cut: InBlocks(factory, cut, width=width, num_samples=num_samples) for cut in CUTS}
    times: dict[tuple[str, str], list[float]] = {(who, part): [] for who in contenders for part in ("update", "step")}
    for cycle in range(cycles + _WARM_UP):
        spent: dict[tuple[str, str], list[float]] = {what: [] for what in times}
        for step in range(_CYCLE):
            for who in sorted(contenders, reverse=(cycle + step) % 2 == 1):
                spent[who, "update"].append(_update_us(contenders[who], step))
        for step in range(_CYCLE):
            for who in sorted(contenders, reverse=(cycle + step) % 2 == 1):
                spent[who, "step"].append(_step_us(contenders[who], step))
        if cycle >= _WARM_UP:
            for what, values in spent.items():
                times[what].append(fmean(values))
    return {what: median(values) for what, values in times.items()}


def _update_us(contender: ByHand | InBlocks, step: int) -> float:
    contender.set_gradients()
    started_s = time.perf_counter()
    contender.update(step)
    return (time.perf_counter() - started_s) * 1e6


def _step_us(contender: ByHand | InBlocks, step: int) -> float:
    started_s = time.perf_counter()
    contender.pull_back()
    contender.update(step)
    return (time.perf_counter() - started_s) * 1e6


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
