"""Where are the parameters that training moved far, and what is lost when they go back to where they began?

    python -m experiments.li2021_active.run

Trains a network of each width with each seed, finds its active parameters, and puts sets of parameters back. Each
network is appended to results.jsonl at once; what is there is skipped.
"""

from __future__ import annotations

import copy
import multiprocessing
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from dni import (
    Masks,
    least_active,
    locate_by_layer,
    most_active,
    random_in_layers,
    random_parameters,
    reset_to_initial,
)
from experiments.datasets import Dataset, fashion_mnist
from experiments.li2021_active.config import FULL, SEEDS, SETTINGS, UNITS, WIDTHS, Settings, network
from experiments.li2021_active.results import Reset, Run, append_run, read_runs
from experiments.machine import machine
from pipeline import KeyedBatches, Sgd, generator, train

__all__ = ["Job", "Options", "accuracy", "jobs", "learn", "measure", "sets"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure what is asked for and append it to results.jsonl; what is already there is skipped."""

    widths: tuple[int, ...] = WIDTHS
    seeds: tuple[int, ...] = SEEDS
    full: bool = False
    """Also the largest width."""
    num_workers: int = 1
    """Networks at the same time: a process of one thread each."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One network."""

    width: int
    seed: int


def jobs(options: Options, done: Collection[tuple[int, int]]) -> list[Job]:
    """What is still to be run: widths and seeds that are not in `done`."""
    widths = (*options.widths, *(FULL if options.full else ()))
    asked = [Job(width=width, seed=seed) for width in widths for seed in options.seeds]
    return [job for job in asked if (job.width, job.seed) not in done]


def learn(module: nn.Module, data: Dataset, settings: Settings, *, steps: int, seed: int) -> None:
    """Train a whole network as a single stage, in place; `seed` is that of the order of the samples."""
    train(
        [module],
        KeyedBatches(data.train_x, data.train_y, batch_size=settings.batch_size),
        loss=nn.CrossEntropyLoss(),
        optimizer=Sgd(lr=settings.rate),
        steps=steps,
        seed=seed,
        device="cpu",
    )


def measure(job: Job, settings: Settings = SETTINGS, read: Callable[[], Dataset] = fashion_mnist) -> Run:
    """Train one network, find its active parameters, and put sets back."""
    started_s = time.perf_counter()
    data = read()
    module = network(job.width, seed=job.seed)
    initial = _parameters(module)
    initial_accuracy = accuracy(module, data)
    learn(module, data, settings, steps=settings.steps, seed=job.seed)
    trained = _parameters(module)
    distances = {unit: distance(initial, trained) for unit, distance in UNITS.items()}
    active = {unit: [most_active(own, share) for share in settings.shares] for unit, own in distances.items()}
    retrain = partial(_retrained, data=data, settings=settings, seed=job.seed)
    resets = []
    for unit, share, which, masks in sets(distances, settings, seed=job.seed):
        back = _with(module, reset_to_initial(trained, initial, masks))
        again = share == settings.retrained_share and unit in ("", "absolute")
        resets.append(
            Reset(
                unit=unit,
                share=share,
                which=which,
                test_accuracy=accuracy(back, data),
                retrained_accuracy=retrain(back) if again else None,
            )
        )
    return Run(
        width=job.width,
        seed=job.seed,
        layer_sizes=[part.num_parameters for part in locate_by_layer(active["absolute"][0]).values()],
        num_active={
            unit: [[part.num_chosen for part in locate_by_layer(masks).values()] for masks in own]
            for unit, own in active.items()
        },
        moved=[_part_of_square(distances["absolute"], masks) for masks in active["absolute"]],
        initial_accuracy=initial_accuracy,
        test_accuracy=accuracy(module, data),
        longer_accuracy=retrain(_with(module, trained)),
        resets=resets,
        wall_s=round(time.perf_counter() - started_s, 1),
        settings=asdict(settings),
        machine=machine(),
    )


def sets(
    distances: Mapping[str, Mapping[str, Tensor]], settings: Settings, *, seed: int
) -> Iterator[tuple[str, float, str, Masks]]:
    """What is put back: the unit it was found by (empty: by none), its share of the parameters, its name, and it."""
    for share in settings.reset_shares:
        drawn = generator(seed, f"random {share}", 0)
        yield "", share, "random", random_parameters(distances["absolute"], share, generator=drawn)
        for unit, own in distances.items():
            active = most_active(own, share)
            yield unit, share, "active", active
            yield unit, share, "lazy", least_active(own, share)
            drawn = generator(seed, f"random in layers {unit} {share}", 0)
            yield unit, share, "random_in_layers", random_in_layers(active, generator=drawn)


def accuracy(module: nn.Module, data: Dataset) -> float:
    """The fraction of test samples whose class the network has right."""
    with torch.no_grad():
        return (module.eval()(data.test_x).argmax(1) == data.test_y).double().mean().item()


def main(options: Options) -> int:
    """Run what is asked for."""
    console = Console()
    done = {(run.width, run.seed) for own in read_runs().values() for run in own}
    todo = jobs(options, done)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.num_workers, mp_context=context, initializer=_one_thread) as pool:
        for count, future in enumerate(as_completed([pool.submit(measure, job) for job in todo]), 1):
            run = future.result()
            append_run(run)
            console.print(
                f"{count}/{len(todo)} width {run.width}, seed {run.seed}: {100 * run.test_accuracy:.2f} %, "
                f"{run.wall_s:.0f} s",
                highlight=False,
            )
    return 0


def _retrained(module: nn.Module, *, data: Dataset, settings: Settings, seed: int) -> float:
    """Test accuracy after further training, on samples in an order that the first training did not have."""
    learn(module, data, settings, steps=settings.retraining_steps, seed=seed + 1000)
    return accuracy(module, data)


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def _with(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A network like this one, with other values."""
    other = copy.deepcopy(module)
    other.load_state_dict(dict(state))
    return other


def _part_of_square(distances: Mapping[str, Tensor], masks: Masks) -> float:
    chosen = sum(float(value[masks[name]].double().square().sum()) for name, value in distances.items())
    return chosen / sum(float(value.double().square().sum()) for value in distances.values())


def _one_thread() -> None:
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
