"""What do gradient, Hessian and third order by subset cost, in forward and backward passes, by three schemes?

    python -m experiments.curvature_cost.run                  # about 16 minutes of one core
    python -m experiments.curvature_cost.run --rounds 1 --networks lenet
    python -m experiments.curvature_cost.run --full           # also all schemes on whole batches: an hour and more

Schemes and plain passes take turns in one process, on one thread; memory is that of a process of its own. Every case is
appended to results.jsonl at once; what is there of the same commit is skipped.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import tyro
from rich.console import Console
from rich.progress import track

from experiments.curvature_cost.cases import COMPARED, FULL, LARGE, MEMORY, Case
from experiments.curvature_cost.measure import peak_gib, timed
from experiments.curvature_cost.networks import NETWORKS
from experiments.machine import machine
from experiments.records import append_line, read_lines
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["RESULTS", "Options", "main"]

RESULTS = Path(__file__).parent / "results.jsonl"
_Job: TypeAlias = tuple[str, Case]
"""Time or memory, and of what."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the schemes, measure their memory, and append both to results.jsonl."""

    rounds: int = 5
    """Turns of each scheme; long cases have fewer."""
    networks: tuple[str, ...] = tuple(NETWORKS)
    """Of which: lenet, vgg, mlp, resnet."""
    full: bool = False
    """Also all schemes on whole batches."""
    record: bool = True
    """Append the results."""


def main(options: Options) -> int:
    """Measure what is not there yet."""
    console, where = Console(), machine()
    done = [_key(line) for line in read_lines(RESULTS) if line["machine"]["commit"] == where["commit"]]
    for kind, case in track(list(_jobs(options)), console=console, description="cases"):
        schemes = (*case.schemes, "plain") if kind == "memory" else case.schemes
        keys = [(kind, case.network, case.num_samples, case.samples_at_once, scheme) for scheme in schemes]
        if options.record and all(key in done for key in keys):
            continue
        for line in _in_a_process(kind, case, options.rounds):
            console.print(_described(line), highlight=False)
            if options.record:
                append_line(line | {"machine": where}, RESULTS)
    return 0


def _jobs(options: Options) -> Iterator[_Job]:
    jobs: list[_Job] = [("time", case) for case in COMPARED]
    jobs += [("memory", case) for case in MEMORY]
    jobs += [("time", case) for case in (*LARGE, *(FULL if options.full else ()))]
    yield from (job for job in jobs if job[1].network in options.networks)


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("kind", "network", "num_samples", "samples_at_once", "scheme"))


def _in_a_process(kind: str, case: Case, rounds: int) -> Iterator[dict[str, Any]]:
    """Each in a new process, so that one leaves no memory to the next."""
    work = [(timed_alone, (case, rounds))]
    if kind == "memory":
        work = [(memory_alone, (case, scheme)) for scheme in (*case.schemes, "plain")]  # type: ignore[list-item]
    for function, arguments in work:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            yield from pool.submit(function, *arguments).result()


def timed_alone(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Time a case, on one thread, as `dni train` handles memory."""
    torch.set_num_threads(1)
    keep_freed_memory()
    return timed(case, rounds=rounds)


def memory_alone(case: Case, scheme: str) -> list[dict[str, Any]]:
    """The peak of one scheme, or of a plain pass."""
    torch.set_num_threads(1)
    peak = peak_gib(case, None if scheme == "plain" else scheme)
    return [
        {
            "kind": "memory",
            "network": case.network,
            "num_samples": case.num_samples,
            "samples_at_once": case.samples_at_once,
            "scheme": scheme,
            "peak_gib": round(peak, 3),
        }
    ]


def _described(line: dict[str, Any]) -> str:
    found = f"{line['peak_gib']} GiB" if line["kind"] == "memory" else f"{line['passes']} plain passes"
    return f"{line['network']}, {line['num_samples']} samples, {line['samples_at_once']}, {line['scheme']}: {found}"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
