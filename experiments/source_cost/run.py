"""What does a source cost, beside the same arithmetic written by hand?

    python -m experiments.source_cost.run

In one process, on one thread. Each round times both, estimate and learn apart, in an order that changes from round to
round; the ratio is taken within a round, so a drift of the machine hits both. Every run is appended to results.jsonl.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import track

from experiments.machine import machine
from experiments.source_cost.cases import CASES, ByHand, Contender, FromPackage, batch

__all__ = ["RESULTS", "Options", "compare", "main"]

RESULTS = Path(__file__).parent / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time sources against the same arithmetic by hand, and append the medians to results.jsonl."""

    samples: tuple[int, ...] = (64, 256)
    """Samples of a microbatch."""
    widths: tuple[int, ...] = (256, 512)
    """Features of the stage's output."""
    rounds: int = 31
    """Rounds; the median of their ratios is reported."""
    calls: int = 20
    """Calls that are timed together."""
    record: bool = True
    """Append the results."""


def compare(name: str, *, num_samples: int, width: int, rounds: int, calls: int) -> dict[str, Any]:
    """One line of the results: medians over the rounds, in microseconds a call, and of the ratios."""
    case = CASES[name]
    h, target, gradient = batch(num_samples, width)
    contenders: dict[str, Contender] = {"ours": FromPackage(case, h), "hand": ByHand(case, h)}
    parts: Mapping[str, Callable[[Contender], object]] = {
        "estimate": lambda contender: contender.estimate(h, target),
        "learn": lambda contender: contender.learn(h, target, gradient),
    }
    times: dict[tuple[str, str], list[float]] = {(who, part): [] for who in contenders for part in parts}
    for number in range(rounds + 1):
        for part, call in parts.items():
            for who in sorted(contenders, reverse=number % 2 == 1):
                elapsed_s = _timed(lambda call=call, who=who: call(contenders[who]), calls)  # type: ignore[misc]
                if number:  # the first round warms up
                    times[who, part].append(elapsed_s * 1e6)
    ours, hand = ([sum(both) for both in zip(*(times[who, part] for part in parts), strict=True)] for who in contenders)
    return {
        "case": name,
        "num_samples": num_samples,
        "width": width,
        "rounds": rounds,
        **{f"{who}_{part}_us": median(values) for (who, part), values in times.items()},
        "ratio": median(a / b for a, b in zip(ours, hand, strict=True)),
        "estimate_ratio": _ratio(times, "estimate"),
        "learn_ratio": _ratio(times, "learn"),
    }


def main(options: Options) -> int:
    """Time all cases."""
    torch.set_num_threads(1)
    console = Console()
    cases = [(name, n, width) for name in CASES for n in options.samples for width in options.widths]
    where = machine()
    for name, num_samples, width in track(cases, console=console, description="sources"):
        line = compare(name, num_samples=num_samples, width=width, rounds=options.rounds, calls=options.calls)
        console.print(f"{name}, {num_samples} x {width}: ratio {line['ratio']:.3f}", highlight=False)
        if options.record:
            with RESULTS.open("a") as file:
                file.write(json.dumps(line | {"machine": where}) + "\n")
    return 0


def _timed(call: Callable[[], object], calls: int) -> float:
    """Seconds a call."""
    gc.disable()
    started_s = time.perf_counter()
    for _ in range(calls):
        call()
    elapsed_s = time.perf_counter() - started_s
    gc.enable()
    return elapsed_s / calls


def _ratio(times: Mapping[tuple[str, str], list[float]], part: str) -> float:
    return median(a / b for a, b in zip(times["ours", part], times["hand", part], strict=True))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
