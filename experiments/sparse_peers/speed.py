"""How long do back-propagation and a whole step take with each rule, beside full training's?

    python -m experiments.sparse_peers.speed

In one process, on one thread, through the framework's own stage and recorder, on random pictures. All rules take turns,
again and again, each time in the opposite order, so that whatever else the machine does hits all of them. A turn is a
whole small run: what a rule does over a run of hundreds of steps, it does within it. Every line is appended to
times.jsonl. To be run on a machine that does nothing else.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, median

import torch
import tyro
from rich.console import Console
from rich.progress import track

from experiments.machine import machine
from experiments.records import append_record
from experiments.spans import read_trace
from experiments.sparse_peers.config import BATCH_SIZE, NETS, SHAPES, SIZES, Cell, Task, make_config
from experiments.sparse_peers.results import FOLDER, Timing
from experiments.sparse_peers.rules import OPTIMIZERS, RULES, Course, Shares, shares
from pipeline import Data, KeyedBatches, prepare, run_threaded
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["COURSE", "NUM_TIMED", "WARM_UP", "Options", "Step", "main", "summed_up", "turn", "typical_seed"]

WARM_UP, NUM_TIMED = 2, 50
"""Steps of a turn before those that are timed, and those. One follows, at whose beginning the last of them ends."""
COURSE = Course(steps=WARM_UP + NUM_TIMED + 1, epoch=8, turn=8, draw=4)
"""Of a turn. A unit's turn in BAdam is not so short that emptying its state would weigh more than in training."""
_NUM_SEEDS = 50
"""That a typical one is chosen from."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time every rule on every network, and append the results to times.jsonl."""

    nets: tuple[str, ...] = tuple(NETS)
    """Networks."""
    sizes: tuple[str, ...] = tuple(SIZES)
    """Their sizes."""
    rounds: int = 3
    """Turns of each rule."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """The milliseconds of one microbatch of a single stage."""

    forward_ms: float
    backward_ms: float
    update_ms: float
    whole_ms: float
    """From the start of its forward to that of the next."""


@cache
def typical_seed(rule: str) -> int:
    """The seed with which a rule, in the steps that are timed, learns and pulls back about as much as on the average.

    So few draws would otherwise say more about luck than about the rule. What it is compared by is counted in units.
    """
    policy = RULES[rule].make(COURSE)
    found = [shares(policy, seed=seed, first=WARM_UP, stop=WARM_UP + NUM_TIMED) for seed in range(_NUM_SEEDS)]
    learned, reached = fmean(each.learned for each in found), fmean(each.reached for each in found)

    def off(each: Shares) -> float:
        return abs(each.learned - learned) + abs(each.reached - reached)

    return min(range(_NUM_SEEDS), key=lambda seed: off(found[seed]))


def turn(cell: Cell) -> list[Step]:
    """The timed steps of one run."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(10 * BATCH_SIZE, *SHAPES[cell.task.data], generator=drawn)
    target = torch.randint(10, (len(x),), generator=drawn)
    config = replace(
        make_config(cell, rate=1e-4, seed=typical_seed(cell.rule), course=COURSE),
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=BATCH_SIZE)),
        log_every=COURSE.steps + 1,  # the trace is written at the end, not between
        executor="threads",
    )
    with tempfile.TemporaryDirectory() as folder:
        run_threaded(prepare(config), folder=Path(folder))
        return _read_steps(Path(folder))


def summed_up(turns: Sequence[Sequence[Step]]) -> dict[str, float]:
    """Milliseconds of a step: of each step of a turn the median over the turns, and of these the mean.

    The turns of a rule are alike: the same units learn at the same steps.
    """

    def mean(value: Callable[[Step], float]) -> float:
        return round(fmean(median(map(value, steps)) for steps in zip(*turns, strict=True)), 4)

    return {
        "forward_ms": mean(lambda step: step.forward_ms),
        "backward_ms": mean(lambda step: step.backward_ms),
        "update_ms": mean(lambda step: step.update_ms),
        "step_ms": mean(lambda step: step.whole_ms),
    }


def main(options: Options, *, folder: Path = FOLDER) -> int:
    """Time what is asked for."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `dni train` does; else whoever is at the top of the heap pays for page faults
    console, where, label = Console(), machine(), time.strftime("%Y-%m-%dT%H:%M:%S")
    for size in options.sizes:
        for net in options.nets:
            task = Task(net, "fashion")
            cells = [Cell(size, task, each, rule) for each in OPTIMIZERS for rule in RULES if _runs(rule, each)]
            turns: dict[Cell, list[list[Step]]] = {cell: [] for cell in cells}
            for number in track(range(options.rounds), console=console, description=f"{NETS[net]}, {size}"):
                for cell in cells[:: -1 if number % 2 else 1]:
                    turns[cell].append(turn(cell))
            for cell, own in turns.items():
                timing = _timing(cell, own, run=label, where=where)
                append_record(timing, folder / "times.jsonl")
                text = f"{timing.backward_ms:.2f} ms backward, {timing.step_ms:.2f} ms a step"
                console.print(f"{cell.title}: {text}", highlight=False, soft_wrap=True)
    return 0


def _timing(cell: Cell, turns: Sequence[Sequence[Step]], *, run: str, where: dict[str, object]) -> Timing:
    policy = RULES[cell.rule].make(COURSE)
    share = shares(policy, seed=typical_seed(cell.rule), first=WARM_UP, stop=WARM_UP + NUM_TIMED)
    return Timing(
        run=run,
        size=cell.size,
        net=cell.task.net,
        optimizer=cell.optimizer,
        rule=cell.rule,
        rounds=len(turns),
        steps=NUM_TIMED,
        learned=round(share.learned, 4),
        **summed_up(turns),
        machine=where,
    )


def _runs(rule: str, optimizer: str) -> bool:
    return optimizer in RULES[rule].optimizers


def _read_steps(folder: Path) -> list[Step]:
    took = {(span.operation, span.step): span for span in read_trace(folder, 0)}

    def ms(operation: str, step: int) -> float:
        span = took[operation, step]
        return 1e3 * (span.end_s - span.start_s)

    return [
        Step(
            forward_ms=ms("F", step),
            backward_ms=ms("B", step),
            update_ms=ms("U", step),
            whole_ms=1e3 * (took["F", step + 1].start_s - took["F", step].start_s),
        )
        for step in range(WARM_UP, WARM_UP + NUM_TIMED)
    ]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
