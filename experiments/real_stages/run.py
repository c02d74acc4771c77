"""How near do two decoupled ranks come to two processes that have nothing to do with each other?

`python -m experiments.real_stages.run` starts two ranks, which run all cases in turns, again and again; then two fresh
ranks for each case, to see its memory; then it trains on MNIST, to see what an update at every microbatch does to
learning. Results are appended to results.jsonl.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import tyro
from rich.console import Console

from experiments.machine import machine
from experiments.real_stages.cases import WIDTH, Case, all_cases, config, find_cut
from experiments.real_stages.learning import learn
from experiments.real_stages.loops import run_loop
from experiments.records import append_line
from experiments.spans import operations_ms, read_trace, start_s
from pipeline.executors.agreement import prepare_together
from pipeline.executors.distributed import run_rank
from pipeline.transports.control import Control, World, world_from_environment

HERE = Path(__file__).parent

Part: TypeAlias = Literal["time", "memory", "learning"]
Allocator: TypeAlias = Literal["default", "kept"]

_ENVIRONMENT: dict[Allocator, dict[str, str]] = {
    "default": {},
    "kept": {"MALLOC_TRIM_THRESHOLD_": str(2**33), "MALLOC_MMAP_THRESHOLD_": str(2**33)},
}
"""glibc's; other C libraries ignore it."""
_CUT_FOR_MEMORY = ("8",)
"""Before the fifth linear layer; measuring a cut would itself take memory."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """For example: python -m experiments.real_stages.run --parts time --repeats 3"""

    parts: tuple[Part, ...] = ("time", "memory", "learning")
    """What is measured."""
    allocators: tuple[Allocator, ...] = ("default", "kept")
    """What the C library does with memory that is freed, in all cases alike. kept: nothing goes back to the system, so
    that an update's gradients, which are freed and made again, cost no page faults."""
    repeats: int = 9
    """Runs of each case, one round of all cases after another."""
    microbatches: int = 100
    """Measured of each run."""
    fill: int = 10
    """Microbatches before them, and after them."""
    width: int = WIDTH
    """Of every layer."""
    samples: int = 60_000
    """That each network learns from, of MNIST."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the networks that learn."""
    out: Path = HERE
    """Folder of results.jsonl."""
    label: str = ""
    """Name of this run in the results; empty: the time."""
    memory_of: int = -1
    """The case whose memory is measured, by its number; set by the script itself."""


def measure_rank(world: World, options: Options) -> None:
    """On one of the two ranks: all cases, again and again, or the memory of one."""
    cases = all_cases(microbatches=options.microbatches, fill=options.fill)
    if options.memory_of >= 0:
        before = peak_mib()
        case = cases[options.memory_of]
        run_case(case, world, at=_CUT_FOR_MEMORY, width=options.width)
        found = _gathered(world, "memory", {"before_mib": before, "peak_mib": peak_mib()})
        _record(world, options, {"part": "memory", "case": case.name, "ranks": found})
        return
    at = _agree_on_cut(world, options)
    console = Console(quiet=world.rank > 0, soft_wrap=True)
    for repeat in range(options.repeats):
        for number, case in enumerate(cases):
            here = replace(world, prefix=f"{world.prefix}/{repeat}/{number}")
            ranks = _gathered(here, "result", run_case(case, here, at=at, width=options.width))
            line = {"part": "time", "case": case.name, "kind": case.kind, "repeat": repeat, "at": at, "ranks": ranks}
            _record(world, options, line | {"microbatches": case.microbatches, "width": options.width})
            took = " and ".join(f"{found['period_ms']:.2f}" for found in ranks if found["period_ms"])
            done = f"repeat {repeat + 1}/{options.repeats}, {number + 1}/{len(cases)}"
            console.print(f"{done}: [bold]{case.name}[/bold]: {took} ms a microbatch", highlight=False)


def run_case(case: Case, world: World, *, at: Sequence[str], width: int) -> dict[str, Any]:
    """Run one case on this rank; returns what it took here."""
    control = Control(replace(world, prefix=f"{world.prefix}/run"))
    if case.kind != "ours":
        period_ms = run_loop(case, control, at=tuple(at), width=width)
        control.close()
        return {"period_ms": period_ms}
    with tempfile.TemporaryDirectory() as folder:
        if world.rank == 0:
            control.put("scratch", folder)
        (shared,) = control.gather(["scratch"])
        # The folder is rank 0's, and goes when rank 0 leaves; each rank reads its own part before that.
        prepared = prepare_together(config(case, at=tuple(at), width=width), control)
        before_s = _side_threads_s()
        summary = run_rank(prepared, control, folder=Path(shared))
        side_s = _side_threads_s() - before_s
        spans = read_trace(Path(shared), world.rank)
        _gathered(replace(world, prefix=f"{world.prefix}/read"), "read", {})
    stage = summary["stages"][world.rank]
    return {
        "period_ms": (start_s(spans, case.last) - start_s(spans, case.first)) * 1000.0 / case.microbatches,
        "operations": operations_ms(spans, case.first, case.last),
        "beside_ms": stage["overhead_s"] * 1000.0 / case.steps,
        "waited_ms": stage["wait_s"] * 1000.0 / case.steps,
        "side_threads_ms": side_s * 1000.0 / case.steps,
    }


def _side_threads_s() -> float:
    """Processor time of this process's other threads so far."""
    return time.process_time() - time.thread_time()


def peak_mib() -> float:
    """The most memory this process has had, resident."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _agree_on_cut(world: World, options: Options) -> list[str]:
    """Rank 0 measures where to cut."""
    control = Control(replace(world, prefix=f"{world.prefix}/cut"))
    if world.rank == 0:
        control.put("at", find_cut(options.width))
    (at,) = control.gather(["at"])
    control.close()
    return list(at)


def _gathered(world: World, name: str, value: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rank's value."""
    control = Control(replace(world, prefix=f"{world.prefix}/{name}"))
    control.put(str(world.rank), value)
    values = control.gather([str(rank) for rank in range(world.world_size)])
    control.close()
    return values


def _record(world: World, options: Options, line: dict[str, Any]) -> None:
    if world.rank == 0:
        found = {"run": options.label, "allocator": options.allocators[0], **line, **machine()}
        append_line(found, options.out / "results.jsonl")


def _launch(options: Options, allocator: Allocator, *arguments: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = ["--label", options.label, "--allocators", allocator, *arguments]
    command = [*launcher, "-m", "experiments.real_stages.run", *sys.argv[1:], *settings]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"} | _ENVIRONMENT[allocator])


def main() -> None:
    """Start the ranks, or be one of them."""
    options = tyro.cli(Options, description=Options.__doc__)
    world = world_from_environment()
    if world is not None:
        measure_rank(world, options)
        return
    options = replace(options, label=options.label or time.strftime("%Y-%m-%dT%H:%M:%S"))
    if "time" in options.parts:
        for allocator in options.allocators:
            _launch(options, allocator)
    if "memory" in options.parts:
        for number, case in enumerate(all_cases(microbatches=options.microbatches, fill=options.fill)):
            if case.kind != "alone":
                _launch(options, "default", "--memory-of", str(number))
    if "learning" in options.parts:
        for line in learn(samples=options.samples, seeds=options.seeds, width=options.width):
            found = {"run": options.label, "part": "learning", **line, **machine()}
            append_line(found, options.out / "results.jsonl")


if __name__ == "__main__":
    main()
