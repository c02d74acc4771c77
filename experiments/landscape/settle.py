"""Why is a synthesizer further off than its form asks? The network is held still, and the synthesizers learn on.

First from their own, bootstrapped targets: what goes is that the network moved away under them. Then from the truth:
what goes is that their targets are wrong. What is left beside a fit by least squares is how they learn: a step at a
time, at a constant rate. Appended to settled.jsonl; what is there is skipped.

python -m experiments.landscape.settle
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import tyro
from rich.console import Console
from torch import Tensor

from dni import GradientSource, Signal, pull_back
from experiments.jobs import Tell, carry_out_in_parts
from experiments.landscape.boundaries import forward, grade_boundaries, true_gradients
from experiments.landscape.config import SEEDS, SETTINGS, Job, Settings, config, split
from experiments.landscape.frozen import Frozen, freeze
from experiments.landscape.results import SETTLED, Settled, read_settled
from experiments.machine import machine
from experiments.records import append_record
from pipeline import KeyedBatches, prepare, run_simulated

__all__ = ["METHOD", "Options", "main", "settle", "work"]

METHOD = "synthetic with labels"
_NUM_STEPS = 1000

Batch: TypeAlias = tuple[Tensor, Tensor]
Target: TypeAlias = Literal["own", "true"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train the networks with synthesizers that see labels, hold them still at checkpoints, and let those learn on."""

    num_workers: int = 1
    """Runs at the same time: a process of one thread each."""


def settle(frozen: Frozen, batches: KeyedBatches, target: Target, *, steps: int) -> Frozen:
    """The same network with sources that have learned on while it stood still.

    Args:
        frozen: stays as it is.
        batches: what they learn from.
        target: the gradient that the stage above uses, pulled back, as in training; or the true one.
        steps: microbatches.
    """
    sources = [copy.deepcopy(source) for source in frozen.sources]
    feed = batches.start(0)
    for step in range(frozen.step, frozen.step + steps):
        x, labels = next(feed)
        assert isinstance(x, Tensor) and labels is not None
        _learn(frozen, sources, (x, labels), target, step=step)
    return replace(frozen, sources=sources)


def work(settings: Settings, num_steps: int, job: Job, tell: Tell) -> None:
    """Train a network, and let its sources settle at each checkpoint but the first."""
    data, setting = split(), config(job, settings)
    held_out = (data.held_out_x[: settings.num_held_out], data.held_out_y[: settings.num_held_out])
    started_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run_simulated(prepare(setting), folder=Path(folder))
        for step in settings.checkpoints[1:]:
            frozen = freeze(setting, Path(folder), step)
            batches = KeyedBatches(data.train_x, data.train_y, batch_size=settings.batch_size, seed=job.seed)
            own = settle(frozen, batches, "own", steps=num_steps)
            true = settle(own, batches, "true", steps=num_steps)
            looked_at = {"as it is": frozen, "own target": own, "true target": true}
            now_s = time.process_time()
            tell(
                Settled(
                    method=job.method,
                    seed=job.seed,
                    step=step,
                    num_steps=num_steps,
                    grades={name: grade_boundaries(each, held_out) for name, each in looked_at.items()},
                    cpu_s=round(now_s - started_s, 2),
                    machine=machine(),
                )
            )
            tell(f"{job.method}, seed {job.seed}")
            started_s = now_s


def main(options: Options) -> int:
    """Run what was not run before; 1 if any run failed."""
    console = Console()
    found = {(own.seed, own.step) for own in read_settled()}
    steps = SETTINGS.checkpoints[1:]
    pending = [Job(method=METHOD, seed=seed) for seed in SEEDS if not {(seed, step) for step in steps} <= found]

    def on_settled(own: Settled) -> None:
        append_record(own, SETTLED)
        console.print(f"{own.method}, seed {own.seed}, step {own.step}: {own.cpu_s:.1f} s", highlight=False)

    return carry_out_in_parts(
        pending,
        partial(work, SETTINGS, _NUM_STEPS),
        parts="checkpoints",
        num_parts=len(pending) * len(steps),
        name=lambda job: f"{job.method}, seed {job.seed}",
        on_result=on_settled,
        num_workers=options.num_workers,
        console=console,
    )


def _learn(frozen: Frozen, sources: list[GradientSource], batch: Batch, target: Target, *, step: int) -> None:
    x, labels = batch
    inputs, outputs = forward(frozen.stages, x)
    true = true_gradients(frozen, inputs, outputs, labels)
    sent = true[-1]
    for index in reversed(range(len(sources) - 1)):
        (sent,) = pull_back([outputs[index + 1]], [inputs[index + 1]], [sent])
        h = outputs[index].detach()
        shown = sent if target == "own" else true[index]
        used = sources[index].estimate(h, Signal(step=step, target=labels))
        sources[index].learn(h, Signal(step=step, target=labels, gradient=shown))
        assert isinstance(used, Tensor)
        sent = used


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
