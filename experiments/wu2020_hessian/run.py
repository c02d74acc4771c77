"""What do the Hessians of single layers look like, and do they agree between models and between ways to train?

    python -m experiments.wu2020_hessian.run
    python -m experiments.wu2020_hessian.run --networks mlp --arms bp --seeds 0 1   # part of it

Trains and looks at each model, appends it to results.jsonl at once and leaves its directions in a folder, then compares
the directions of all models. What is there is skipped.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from experiments.jobs import carry_out
from experiments.machine import machine
from experiments.records import append_record
from experiments.wu2020_hessian.config import ARMS, NETWORKS, NUM_CLASSES, config, data, layers
from experiments.wu2020_hessian.layer import is_layer, look
from experiments.wu2020_hessian.pairs import pairs_of
from experiments.wu2020_hessian.results import FOLDER, PAIRS, RESULTS, Model, read_models, read_pairs
from pipeline import prepare, run_simulated

__all__ = ["Job", "Options", "main", "measure"]

_PART = 1000
"""Samples that are evaluated at a time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure everything and append it to results.jsonl and pairs.jsonl; what is already there is skipped.

    Examples:
        python -m experiments.wu2020_hessian.run
        python -m experiments.wu2020_hessian.run --networks mlp --arms bp --seeds 0 1
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    """mlp, cnn."""
    arms: tuple[str, ...] = tuple(ARMS)
    """init, early, bp, sync, never. Models are compared with each other if all arms and seeds have been looked at."""
    seeds: tuple[int, ...] = ()
    """None given: those of each network."""
    frames: Path = Path("runs/wu2020_hessian")
    """Folder for the directions of each model, some 250 MB, which the comparison reads; of no use after it."""
    num_workers: int = 1
    """Models at the same time: a process of one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One model."""

    network: str
    arm: str
    seed: int
    steps: int | None = None
    """Of its training; None: as many as its arm says."""
    num_looked_at: int | None = None
    """Samples whose loss is looked at; None: as the network says."""

    def __str__(self) -> str:
        return f"{self.network} {self.arm} {self.seed}"


def measure(job: Job, frames: Path) -> Model:
    """Train a model, look at its layers, and leave their top directions in the folder `frames`."""
    started_s = time.process_time()
    prepared = prepare(config(job.network, job.arm, seed=job.seed, steps=job.steps))
    num_steps = prepared.config.steps if ARMS[job.arm].part else 0
    cut = run_simulated(prepared).cut if num_steps else prepared.cut
    network = layers(list(cut.stages))
    trained_s = time.process_time()
    own = data(job.network)
    num_samples = job.num_looked_at or NETWORKS[job.network].num_looked_at
    x, target = own.train_x[:num_samples], own.train_y[:num_samples]
    found = [
        look(
            network,
            place,
            x,
            target,
            classes=NUM_CLASSES,
            seed=job.seed,
            density=job.seed == NETWORKS[job.network].seeds[0],
        )
        for place, module in enumerate(network)
        if is_layer(module)
    ]
    frames.mkdir(parents=True, exist_ok=True)
    torch.save([vectors for _, vectors in found], _frame(frames, job.network, job.arm, job.seed))
    looked_s = time.process_time()
    return Model(
        network=job.network,
        arm=job.arm,
        seed=job.seed,
        steps=num_steps,
        loss=nn.functional.cross_entropy(_outputs(network, x), target).item(),
        test_accuracy=(_outputs(network, own.test_x).argmax(1) == own.test_y).double().mean().item(),
        looks=tuple(own for own, _ in found),
        train_s=round(trained_s - started_s, 2),
        look_s=round(looked_s - trained_s, 2),
        machine=machine(),
    )


def main(options: Options) -> int:
    """Look at what is asked for, and compare what is complete; 1 if a run failed, 2 if the call is wrong."""
    console = Console()
    for name, asked, known in (("networks", options.networks, NETWORKS), ("arms", options.arms, ARMS)):
        if unknown := sorted(set(asked) - set(known)):
            console.print(f"choose {name} among {', '.join(known)}; found {', '.join(unknown)}.")
            return 2
    compared = {pair.network for pair in read_pairs()}
    done = {model.key for model in read_models()}
    jobs = [
        job
        for job in (
            Job(network=n, arm=a, seed=s) for n in options.networks for a in options.arms for s in _seeds(options, n)
        )
        if (job.network, job.arm, job.seed) not in done
        # Recorded, but its directions are gone before they were compared.
        or (job.network not in compared and not _frame(options.frames, job.network, job.arm, job.seed).exists())
    ]

    def on_model(model: Model) -> None:
        append_record(model, FOLDER / RESULTS)
        console.print(
            f"{model.network} {model.arm} {model.seed}: loss {model.loss:.3f}, {100 * model.test_accuracy:.2f} % test, "
            f"{model.train_s:.1f} s of a core to train, {model.look_s:.1f} s to look",
            highlight=False,
        )

    code = carry_out(
        jobs,
        partial(measure, frames=options.frames),
        name=str,
        on_result=on_model,
        num_workers=options.num_workers,
        console=console,
    )
    if not code:
        _compare(options, console)
    return code


def _compare(options: Options, console: Console) -> None:
    models, compared = read_models(), {pair.network for pair in read_pairs()}
    for network in (network for network in options.networks if network not in compared):
        own, seeds = [model for model in models if model.network == network], NETWORKS[network].seeds
        if missing := {(arm, seed) for arm in ARMS for seed in seeds} - {(model.arm, model.seed) for model in own}:
            console.print(f"{network}: {len(missing)} models are missing; they are not compared yet")
            continue
        frames = {arm: {seed: _read(options.frames, network, arm, seed) for seed in seeds} for arm in ARMS}
        for pair in pairs_of(network, frames, [own_look.rows for own_look in own[0].looks]):
            append_record(pair, FOLDER / PAIRS)
        console.print(f"{network}: compared")


def _seeds(options: Options, network: str) -> tuple[int, ...]:
    return options.seeds or NETWORKS[network].seeds


def _frame(frames: Path, network: str, arm: str, seed: int) -> Path:
    return frames / f"{network}-{arm}-{seed}.pt"


def _read(frames: Path, network: str, arm: str, seed: int) -> list[Tensor]:
    found: list[Tensor] = torch.load(_frame(frames, network, arm, seed), weights_only=True)
    return found


def _outputs(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(part) for part in x.split(_PART)])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
