"""How much of its own time does a stage spend, when the stages sleep instead of computing?

`python -m experiments.sleeping_stages.run` starts the ranks once per number of stages, and lets the same processes run
torch's schedules and ours in turns. Then the simulator predicts ours. Results are appended to results.jsonl, and some
moments of the last repeat to spans.jsonl, for the pictures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import tyro
from rich.console import Console

from experiments.machine import machine
from experiments.records import append_line, read_lines
from experiments.sleeping_stages.cases import DECOUPLED, FEW_SYNCS, Case, Sizes, all_cases, config
from experiments.sleeping_stages.predict import predict
from experiments.sleeping_stages.schedules import run_schedule
from experiments.sleeping_stages.steady import around_pause, message_ms, steady
from experiments.spans import Span, read_trace
from pipeline.executors.agreement import prepare_together
from pipeline.executors.distributed import run_rank
from pipeline.transports.control import Control, World, world_from_environment

HERE = Path(__file__).parent
_DRAWN = ("equal: 1F1B, 8", "equal: decoupled, no", "equal: decoupled, syncs with p = 0.1, hold", "paused: ")


@dataclass(frozen=True, kw_only=True)
class Options:
    """For example: python -m experiments.sleeping_stages.run --ranks 4 8 --only equal"""

    ranks: tuple[int, ...] = (2, 4, 8)
    """Numbers of stages, one per rank; each is a launch of its own."""
    repeats: int = 3
    """Runs of each case, one round of all cases after another."""
    sizes: Sizes = field(default_factory=Sizes)
    """How much is run."""
    only: str = ""
    """Run the cases whose name contains this."""
    out: Path = HERE
    """Folder of results.jsonl and spans.jsonl."""
    label: str = ""
    """Name of this run in the results; empty: the time."""


def measure_rank(world: World, options: Options) -> None:
    """On one rank: all cases, again and again; rank 0 records what every rank did."""
    cases = [case for case in all_cases(world.world_size, options.sizes) if options.only in case.name]
    console = Console(quiet=world.rank > 0, soft_wrap=True)
    for repeat in range(options.repeats):
        for number, case in enumerate(cases):
            started_s = time.perf_counter()
            ranks = run_case(case, replace(world, prefix=f"{world.prefix}/{repeat}/{number}"))
            if world.rank == 0:
                line = record(case, ranks, options, repeat=repeat)
                done = f"{world.world_size} ranks, repeat {repeat + 1}/{options.repeats}, {number + 1}/{len(cases)}"
                took = f"{line['period_ms']:.1f} ms a microbatch, {time.perf_counter() - started_s:.0f} s"
                console.print(f"{done}: [bold]{case.name}[/bold]: {took}", highlight=False)


def run_case(case: Case, world: World) -> list[list[Span]]:
    """Run one case on this rank; rank 0 gets what every rank did, the others nothing."""
    control = Control(replace(world, prefix=f"{world.prefix}/results"))
    with tempfile.TemporaryDirectory() as folder:
        if world.rank == 0:
            control.put("folder", folder)
        shared = Path(control.gather(["folder"])[0])
        run = Control(replace(world, prefix=f"{world.prefix}/run"))
        if case.schedule:
            spans = run_schedule(case, run)
            run.close()
        else:
            run_rank(prepare_together(config(case, world.world_size), run), run, folder=shared)
            spans = read_trace(shared, world.rank)
        control.put(f"spans/{world.rank}", spans)
        keys = [f"spans/{rank}" for rank in range(world.world_size)] if world.rank == 0 else []
        ranks = [[Span(*span) for span in spans] for spans in control.gather(keys)]
        control.close()
    return ranks


def record(case: Case, ranks: Sequence[Sequence[Span]], options: Options, *, repeat: int) -> dict[str, Any]:
    """Append what was measured; returns the line."""
    stages = [steady(spans, case) for spans in ranks]
    line = {
        "run": options.label,
        "ranks": len(ranks),
        "group": case.group,
        "method": case.method,
        "repeat": repeat,
        "microbatches": case.microbatches,
        "nominal_ms": round(max(case.nominal_s(rank, len(ranks)) for rank in range(len(ranks))) * 1000.0, 3),
        "period_ms": max(stage["period_ms"] for stage in stages),
        "own_ms": [stage["own_ms"] for stage in stages],
        "operations": [stage["operations"] for stage in stages],
        "message_ms": message_ms(ranks) if case.sync and case.stash == "hold" else None,
        "pause": around_pause(ranks, case) if case.group == "paused" else [],
        **machine(),
    }
    append_line(line, options.out / "results.jsonl")
    if repeat == options.repeats - 1 and case.name.startswith(_DRAWN):
        append_line(drawn(case, ranks, run=options.label), options.out / "spans.jsonl")
    return line


def drawn(case: Case, ranks: Sequence[Sequence[Span]], *, run: str) -> dict[str, Any]:
    """The moments of a run that the pictures show: tenths of a millisecond, from the first one on."""
    at, before_s, length_s = (case.pause_at, 0.3, 3.0) if case.group == "paused" else (case.last, 1.2, 1.2)
    middle = len(ranks) // 2
    start_s = next(s.start_s for s in ranks[middle] if s.operation == "F" and s.step == at) - before_s
    rows = [
        [
            [span.operation, round((span.start_s - start_s) * 1e4), round((span.end_s - start_s) * 1e4)]
            for span in spans
            if span.operation in "FBW" and span.end_s > start_s and span.start_s < start_s + length_s
        ]
        for spans in ranks
    ]
    return {"run": run, "ranks": len(ranks), "group": case.group, "method": case.method, "rows": rows}


def predict_all(ranks: int, options: Options) -> None:
    """Append what the simulator says of our cases, from what operations cost where nothing is synced, and from what
    messages cost in the few syncs of another."""
    lines = read_lines(options.out / "results.jsonl")
    lines = [line for line in lines if line["run"] == options.label and line["ranks"] == ranks]
    decoupled = [line for line in lines if (line["group"], line["method"]) == ("equal", DECOUPLED)]
    ways_ms = [line["message_ms"] for line in lines if line["method"] == FEW_SYNCS and line["message_ms"]]
    if not decoupled or not ways_ms:
        return
    inner = [stage for line in decoupled for stage in line["operations"][:-1]]  # the last stage has no source
    operations = {name: mean(stage[name] for stage in inner) for name in ("F", "B", "L", "U")}
    # What the slowest stage's thread does between its operations; nothing waits for it to be done at another place.
    operations["F"] += mean(line["period_ms"] - max(line["own_ms"]) for line in decoupled)
    way_ms = median(ways_ms)
    measured = {(line["group"], line["method"]) for line in lines}
    for case in all_cases(ranks, options.sizes):
        if not case.schedule and (case.group, case.method) in measured:
            line = {"run": options.label, "ranks": ranks, "group": case.group, "method": case.method}
            line |= {"predicted": predict(case, ranks, operations, message_ms=way_ms)}
            line |= {"costs_ms": operations | {"message": way_ms}}
            append_line(line, options.out / "results.jsonl")


def main() -> None:
    """Start the ranks, or be one of them."""
    options = tyro.cli(Options, description=Options.__doc__)
    world = world_from_environment()
    if world is not None:
        measure_rank(world, options)
        return
    run = options.label or time.strftime("%Y-%m-%dT%H:%M:%S")
    for ranks in options.ranks:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command = [*launcher, "-m", "experiments.sleeping_stages.run", *sys.argv[1:], "--label", run]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        predict_all(ranks, replace(options, label=run))


if __name__ == "__main__":
    main()
