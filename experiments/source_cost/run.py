"""What does a source cost, beside the same arithmetic written by hand?

    python -m experiments.source_cost.run

In one process, on one thread. The two take turns call by call, in an order that changes from round to round, so
whatever else the machine does hits both. Every run is appended to results.jsonl.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import track

from experiments.machine import machine
from experiments.records import append_line
from experiments.source_cost.cases import CASES, ByHand, Contender, FromPackage, batch
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["RESULTS", "Options", "compare", "main"]

RESULTS = Path(__file__).parent / "results.jsonl"
_PARTS = ("estimate", "learn")
_WHO = ("ours", "hand")
_WARM_UP = 5
"""Rounds that are not counted."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time sources against the same arithmetic by hand, and append the medians to results.jsonl."""

    samples: tuple[int, ...] = (64, 256)
    """Samples of a microbatch."""
    widths: tuple[int, ...] = (256, 512)
    """Features of the stage's output."""
    rounds: int = 60
    """Calls of each that are timed, of estimate and of learn, with each build."""
    builds: int = 7
    """Times that both are made anew, elsewhere in memory."""
    record: bool = True
    """Append the results."""


def compare(name: str, *, num_samples: int, width: int, rounds: int, builds: int) -> dict[str, Any]:
    """One line of the results: times of a call in microseconds, medians over the builds, and their ratios."""
    timed = [_timed(name, num_samples=num_samples, width=width, rounds=rounds) for _ in range(builds)]
    found = {call: median(times[call] for times in timed) for call in timed[0]}
    both = {who: median(sum(times[who, part] for part in _PARTS) for times in timed) for who in _WHO}
    return {
        "case": name,
        "num_samples": num_samples,
        "width": width,
        "rounds": rounds,
        "builds": builds,
        **{f"{who}_{part}_us": value for (who, part), value in found.items()},
        **{f"{part}_ratio": found["ours", part] / found["hand", part] for part in _PARTS},
        "ratio": both["ours"] / both["hand"],
    }


def main(options: Options) -> int:
    """Time all cases."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `dni train` does; else whoever is at the top of the heap pays for page faults
    console = Console()
    cases = [(name, n, width) for name in CASES for n in options.samples for width in options.widths]
    where = machine()
    for name, num_samples, width in track(cases, console=console, description="sources"):
        line = compare(name, num_samples=num_samples, width=width, rounds=options.rounds, builds=options.builds)
        console.print(f"{name}, {num_samples} x {width}: ratio {line['ratio']:.3f}", highlight=False)
        if options.record:
            append_line(line | {"machine": where}, RESULTS)
    return 0


def _timed(name: str, *, num_samples: int, width: int, rounds: int) -> dict[tuple[str, str], float]:
    """The median time of a call, by who and which, of contenders made anew."""
    case = CASES[name]
    h, target, gradient = batch(num_samples, width)
    contenders: dict[str, Contender] = {"ours": FromPackage(case, h), "hand": ByHand(case, h)}
    times: dict[tuple[str, str], list[float]] = {(who, part): [] for part in _PARTS for who in _WHO}
    for number in range(rounds + _WARM_UP):
        for part in _PARTS:
            for who in sorted(_WHO, reverse=number % 2 == 1):
                contender = contenders[who]
                started_s = time.perf_counter()
                if part == "estimate":
                    contender.estimate(h, target)
                else:
                    contender.learn(h, target, gradient)
                elapsed_s = time.perf_counter() - started_s
                if number >= _WARM_UP:
                    times[who, part].append(elapsed_s * 1e6)
    return {call: median(values) for call, values in times.items()}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
