"""How much faster are back-propagation and whole steps, beside what they should be?

    python -m experiments.li2021_lws.speed

In one process, on one thread, through the framework's own stage, on random pictures. All rules take turns, again and
again, each time in the opposite order, so that whatever else the machine does hits all of them. Every line is appended
to times.jsonl. To be run on a machine that does nothing else.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch
import tyro
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from experiments.li2021_lws.by_hand import by_hand
from experiments.li2021_lws.config import (
    EVERYTHING,
    GRID,
    TOPS,
    Rule,
    make_linear,
    make_vgg,
    participation,
    top_of,
)
from experiments.li2021_lws.results import FOLDER
from experiments.li2021_lws.spent import Step, full_steps, median_ms, read_steps, seed_with_share
from experiments.machine import machine
from experiments.records import append_line
from pipeline import Config, Data, KeyedBatches, Sgd, prepare, run_threaded
from pipeline.executors.allocator import keep_freed_memory

__all__ = ["BY_HAND", "NETS", "RULES", "Options", "TimedNet", "main", "summed_up", "turn", "turn_by_hand"]

_WARM_UP = 3
"""Steps of a turn before those that are timed."""
RULES = (EVERYTHING, *(Rule(top, 0.0) for top in TOPS), *GRID)
"""In the order of the table."""
BY_HAND = (EVERYTHING, Rule("head", 0.1), Rule("half", 0.1))
"""Of those, also timed in a loop without stages."""


@dataclass(frozen=True, kw_only=True)
class TimedNet:
    """A network of a width that is used."""

    title: str
    make: Callable[[], nn.Sequential]
    batch_size: int
    shape: tuple[int, ...]
    """Of a sample."""

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random pictures: as much work as any others."""
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch_size, *self.shape, generator=drawn)
        return x, torch.randint(10, (self.batch_size,), generator=drawn)


NETS: Mapping[str, TimedNet] = {
    "mlp": TimedNet(
        title="MLP, 12 layers, width 1024",
        make=partial(make_linear, (*(1024,) * 11, 10), (784,)),
        batch_size=64,
        shape=(784,),
    ),
    "cnn": TimedNet(
        title="VGG-like CNN, 32 to 128 channels",
        make=partial(make_vgg, (32, 64, 64, 128, 128), (3, 32, 32)),
        batch_size=32,
        shape=(3, 32, 32),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time every rule on every network, and append the results to times.jsonl."""

    nets: tuple[str, ...] = tuple(NETS)
    """Networks."""
    rounds: int = 4
    """Turns of each rule."""
    steps: int = 20
    """That are timed in a turn; with a multiple of 20 exactly the share that its rule says lets everything learn."""
    record: bool = True
    """Append the results."""


def turn(net: TimedNet, rule: Rule, *, steps: int) -> list[Step]:
    """The timed steps of one run."""
    network, total = net.make(), _WARM_UP + steps + 1
    seed = seed_with_share(rule, network, first=_WARM_UP, steps=steps)
    config = Config(
        model=net.make,
        num_stages=1,
        data=lambda: Data(train=KeyedBatches(*net.batch(), batch_size=net.batch_size)),
        loss=nn.CrossEntropyLoss(),
        optimizer=Sgd(lr=1e-4),
        participation=participation(rule, network),
        steps=total,
        seed=seed,
        log_every=total + 1,  # the trace is written at the end, not between
        executor="threads",
        device="cpu",
    )
    full = full_steps(config.participation, network, steps=total, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run_threaded(prepare(config), folder=Path(folder))
        return read_steps(Path(folder), full)[_WARM_UP:-1]


def turn_by_hand(net: TimedNet, rule: Rule, *, steps: int) -> list[Step]:
    """The same in a loop without stages."""
    network = net.make()
    seed = seed_with_share(rule, network, first=_WARM_UP, steps=steps)
    full = full_steps(participation(rule, network), network, steps=_WARM_UP + steps + 1, seed=seed)
    return by_hand(network, top_of(rule, network), full, net.batch())[_WARM_UP:]


def summed_up(turns: Sequence[Sequence[Step]]) -> dict[str, float | None]:
    """Milliseconds of a step: of each step of a turn the median over the turns, and of these the mean.

    The turns of a rule are alike: the same steps let everything learn. Beside them the medians of both kinds of
    backward.
    """

    def mean(value: Callable[[Step], float | None]) -> float:
        return round(fmean(median(value(step) or 0.0 for step in steps) for steps in zip(*turns, strict=True)), 4)

    every = [step for steps in turns for step in steps]
    return {
        "forward_ms": mean(lambda step: step.forward_ms),
        "backward_ms": mean(lambda step: step.backward_ms),
        "update_ms": mean(lambda step: step.update_ms),
        "step_ms": mean(lambda step: step.whole_ms),
        "full_backward_ms": median_ms(step.backward_ms for step in every if step.full),
        "other_backward_ms": median_ms(step.backward_ms for step in every if not step.full),
    }


def main(options: Options) -> int:
    """Time what is asked for."""
    torch.set_num_threads(1)
    keep_freed_memory()  # as `dni train` does; else whoever is at the top of the heap pays for page faults
    console, where, label = Console(), machine(), time.strftime("%Y-%m-%dT%H:%M:%S")
    cases = [("ours", rule) for rule in RULES] + [("by hand", rule) for rule in BY_HAND]
    ways = {"ours": turn, "by hand": turn_by_hand}
    for name in options.nets:
        turns: dict[tuple[str, Rule], list[list[Step]]] = {case: [] for case in cases}
        for number in track(range(options.rounds), console=console, description=NETS[name].title):
            for how, rule in cases[:: -1 if number % 2 else 1]:
                turns[how, rule].append(ways[how](NETS[name], rule, steps=options.steps))
        for (how, rule), own in turns.items():
            line = {"net": name, "how": how, **rule._asdict(), **summed_up(own)}
            console.print(f"{how}: {rule.title}: {line['backward_ms']:.2f} ms backward", highlight=False)
            if options.record:
                counts = {"rounds": options.rounds, "steps": options.steps}
                append_line({"run": label, **line, **counts, "machine": where}, FOLDER / "times.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
