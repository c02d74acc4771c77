"""How well do two networks on different clocks count, and what does it cost the fast one to wait?

    python -m experiments.jaderberg2017_two_rates.run

Runs every method with every seed. Each run is appended to results.jsonl at once; what is there is skipped.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count as numbers
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from dni import GradientSource, Sum
from experiments.jaderberg2017_two_rates.config import LATENCIES, METHODS, STEPS, costs, digits
from experiments.jaderberg2017_two_rates.results import RESULTS, Errors, Run, read_runs
from experiments.jaderberg2017_two_rates.streams import TICK, WINDOW, counts, odd, threes
from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.records import append_record
from pipeline import prepare, run_simulated
from pipeline.configuration.prepared import Prepared
from pipeline.virtual_time.rehearsal import rehearse

__all__ = ["Job", "Options", "count", "jobs", "measure"]

_EVERY = 800
"""Digits of a stream from one look at the errors to the next."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what is asked for and append it to results.jsonl; what is already there is skipped."""

    only: tuple[str, ...] = ()
    """Methods, named as in config.py; none: all."""
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int | None = None
    """Shorter runs for a try: they are shown and not appended."""
    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    method: str
    seed: int
    steps: int = STEPS


def jobs(options: Options, runs: Iterable[Run]) -> list[Job]:
    """What is asked for and not done yet.

    Raises:
        ValueError: there is no such method.
    """
    if unknown := sorted(set(options.only) - set(METHODS)):
        raise ValueError(f"choose among {', '.join(METHODS)}; found {', '.join(unknown)}.")
    done = set() if options.steps else {(run.method, run.seed) for run in runs}
    asked = [(name, seed) for seed in options.seeds for name in options.only or METHODS]
    steps = options.steps or STEPS
    return [Job(method=name, seed=seed, steps=steps) for name, seed in asked if (name, seed) not in done]


def measure(job: Job) -> Run:
    """Carry out one run."""
    config = METHODS[job.method].config(seed=job.seed, steps=job.steps)
    prepared = prepare(replace(config, log_every=min(_EVERY, job.steps)))
    errors: list[Errors] = []

    def look(statuses: Sequence[Any]) -> None:
        step = statuses[0].step
        if step >= (errors[-1].step if errors else 0) + _EVERY and step < job.steps:
            errors.append(count(prepared, step))

    started_s = time.perf_counter()
    run_simulated(prepared, on_status=look)
    errors.append(count(prepared, job.steps))
    return Run(
        method=job.method,
        seed=job.seed,
        steps=job.steps,
        errors=errors,
        guess=_guess(),
        digit_s={f"{latency:g}": _digit_s(prepared, latency) for latency in LATENCIES},
        synthesizer_parameters=sum(p.numel() for part in _sources(prepared)[1:] for p in part.parameters()),
        wall_s=round(time.perf_counter() - started_s, 2),
        machine=machine(),
    )


def count(prepared: Prepared, step: int) -> Errors:
    """How far off both networks are on the test digits; a copy of them counts, so nothing changes."""
    fast, slow = (copy.deepcopy(stage).eval() for stage in prepared.cut.stages)
    own_task: Any = _sources(prepared)[0]
    head: nn.Module = own_task.source.regression.networks[0].labels.head
    x, target = _test_streams()
    off: dict[str, list[Tensor]] = {"fast": [], "slow": []}
    with torch.no_grad():
        for position in range(WINDOW):
            h = fast(x[position])
            off["fast"].append(_off(head(h), odd(target[position])))
            if (position + 1) % TICK == 0:
                off["slow"].append(_off(slow(h), threes(target[position])))
    return Errors(step=step, **{name: torch.stack(values).mean().item() for name, values in off.items()})


def main(options: Options) -> int:
    """Run what is asked for; 1 if any run failed, 2 if the call is wrong."""
    console = Console()
    try:
        asked = jobs(options, read_runs())
    except ValueError as error:
        console.print(error)
        return 2
    done = numbers(1)

    def on_run(run: Run) -> None:
        if options.steps is None:
            append_record(run, RESULTS)
        last = run.errors[-1]
        console.print(
            f"{next(done)}/{len(asked)} {run.method}, seed {run.seed}: odd {last.fast:.3f}, threes {last.slow:.3f}, "
            f"{run.wall_s:.1f} s",
            highlight=False,
        )

    return carry_out(
        asked,
        measure,
        name=lambda job: f"{job.method}, seed {job.seed}",
        on_result=on_run,
        num_workers=options.num_workers,
        console=console,
    )


def _off(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.argmax(-1) - target).abs().float().mean()


def _test_streams() -> tuple[Tensor, Tensor]:
    """Windows of the test digits in their order, side by side: (D, N, F) and (D, N, 2)."""
    whole = digits()
    num_streams = len(whole.test_x) // WINDOW
    chosen = torch.arange(num_streams * WINDOW).view(num_streams, WINDOW).T
    return whole.test_x[chosen], counts(whole.test_y[chosen])


def _guess() -> Errors:
    """Without looking."""
    _, target = _test_streams()
    off = (target - target.mode(dim=1, keepdim=True).values).abs().float().mean(1)
    return Errors(step=0, fast=odd(off).mean().item(), slow=threes(off)[TICK - 1 :: TICK].mean().item())


def _digit_s(prepared: Prepared, latency: float) -> float:
    """In the stages played without mathematics."""
    steps = 40 * TICK
    short = replace(prepared, config=replace(prepared.config, steps=steps, costs=costs(latency)))
    return rehearse(short, way="stages").timing.end_s / steps


def _sources(prepared: Prepared) -> list[Any]:
    """What the fast network learns from, its own task first."""
    source: GradientSource = prepared.sources[0]
    return list(source.sources) if isinstance(source, Sum) else [source]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
