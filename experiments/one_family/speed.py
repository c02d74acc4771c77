"""How fast are stages that have a thread each, beside backprop in one plain loop?

    python -m experiments.one_family.speed

In one process, one intra-op thread a stage, messages handled as they come. All rows take turns, again and again, each
time in the opposite order, so that whatever else the machine does hits all of them. Every run is appended to
speed.jsonl. To be run on a machine that does nothing else.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import nn

from experiments.machine import machine
from experiments.one_family.config import BATCH_SIZE, NETS, ROWS, bare_config
from experiments.one_family.results import FOLDER
from experiments.records import append_line
from experiments.spans import read_trace, start_s
from pipeline import prepare, run_threaded
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["LOOP", "Options", "main", "samples_per_s"]

LOOP = "loop"
"""The name of the plain loop among the rows."""
_WARM_UP = 10
"""Steps before those that are timed."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time every row in `threads`, and a plain loop; append to speed.jsonl."""

    nets: tuple[str, ...] = tuple(NETS)
    """Networks."""
    only: tuple[str, ...] = ()
    """Rows, named as in config.py, or loop; none: all."""
    repeats: int = 3
    """Turns of each row; the table has the medians."""
    steps: int = 40
    """Microbatches that are timed in a turn."""
    record: bool = True
    """Append the results."""


def samples_per_s(row: str, net: str, *, steps: int) -> float:
    """Of one turn, between the starts of the first timed microbatch and of the first one after them, at the top."""
    if row == LOOP:
        return steps * BATCH_SIZE / _loop_s(net, steps=steps)
    config = bare_config(row, net, steps=_WARM_UP + steps + 1)
    prepared = prepare(replace(config, executor="threads", arrival="ready"))
    with tempfile.TemporaryDirectory() as folder:
        run_threaded(prepared, folder=Path(folder))
        spans = read_trace(Path(folder), prepared.num_stages - 1)
    return steps * BATCH_SIZE / (start_s(spans, _WARM_UP + steps) - start_s(spans, _WARM_UP))


def main(options: Options) -> int:
    """Time what is asked for."""
    torch.set_num_threads(1)
    keep_freed_memory()
    console, where, label = Console(), machine(), time.strftime("%Y-%m-%dT%H:%M:%S")
    cases = [(net, row) for net in options.nets for row in options.only or (LOOP, *ROWS)]
    for repeat in range(options.repeats):
        for net, row in cases[:: -1 if repeat % 2 else 1]:
            rate = samples_per_s(row, net, steps=options.steps)
            console.print(f"{repeat + 1}/{options.repeats} {row}, {net}: {rate:.0f} samples/s", highlight=False)
            if options.record:
                line = {"run": label, "row": row, "net": net, "repeat": repeat, "samples_per_s": round(rate, 1)}
                append_line(line | {"steps": options.steps, "machine": where}, FOLDER / "speed.jsonl")
    return 0


def _loop_s(net: str, *, steps: int) -> float:
    """Seconds of the same network and optimiser without stages."""
    config = bare_config("backprop", net, steps=1)
    model = nn.Sequential(*NETS[net].make())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = config.data().train.start(0)
    started_s = 0.0
    for step in range(_WARM_UP + steps):
        if step == _WARM_UP:
            started_s = time.perf_counter()
        x, target = next(batches)
        optimizer.zero_grad(set_to_none=True)
        config.loss(model(x), target).backward()
        optimizer.step()
    return time.perf_counter() - started_s


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
