"""What do four stages send one another, and how long do they wait, when most steps let only the top ones learn?

    python -m experiments.li2021_lws.stages

Plays every case in virtual time, counting what crosses between stages; then starts two ranks, with two stages each,
which run all cases in turns, again and again. Every line is appended to stages.jsonl. The ranks are to be run on a
machine that does nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import tyro
from rich.console import Console
from torch import nn

from dni import TopOrAll, as_tuple
from experiments.li2021_lws.config import make_linear
from experiments.li2021_lws.results import FOLDER
from experiments.machine import machine
from experiments.records import append_line
from pipeline import Config, Data, KeyedBatches, prepare
from pipeline.configuration.config import Executor, Sgd
from pipeline.configuration.run import build_stage, make_feed, make_inbox
from pipeline.executors.agreement import prepare_together
from pipeline.executors.distributed import run_rank
from pipeline.messages import Activation, Gradient, Payload, Send
from pipeline.transports.control import Control, World, world_from_environment
from pipeline.virtual_time.costs import virtual_clock
from pipeline.virtual_time.simulator import simulate

__all__ = ["CASES", "NUM_STAGES", "Case", "Options", "main", "make_config", "play"]

NUM_STAGES = 4
_LAYERS_EACH, _BATCH_SIZE = 3, 32


class Case(NamedTuple):
    """Who learns when."""

    top: int
    """Stages, counted from the top, that learn at every step."""
    probability: float
    """That a step lets all of them learn."""

    @property
    def title(self) -> str:
        return "full SGD" if self.probability == 1 else f"top {self.top} of {NUM_STAGES}, p = {self.probability:g}"


CASES = (Case(1, 1.0), Case(1, 0.5), Case(1, 0.3), Case(1, 0.1), Case(1, 0.05), Case(2, 0.1))
"""In the order of the table."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Play and run all cases, and append the results to stages.jsonl."""

    width: int = 1024
    """Of the twelve layers."""
    virtual_steps: int = 400
    """Microbatches that are played."""
    steps: int = 200
    """Microbatches of a run in two ranks."""
    rounds: int = 3
    """Such runs of each case."""
    record: bool = True
    """Append the results."""
    label: str = ""
    """Of this run in the results; empty: the time."""


def make_config(case: Case, *, width: int, steps: int, executor: Executor) -> Config:
    """Four stages of three linear layers each, which learn from random pictures."""
    return Config(
        model=lambda: _network(width),
        data=lambda: _noise(width),
        loss=nn.CrossEntropyLoss(),
        optimizer=Sgd(lr=1e-4),
        participation=TopOrAll(case.probability, top=case.top, unit="stages"),
        steps=steps,
        delay=(NUM_STAGES,),
        max_in_flight=(NUM_STAGES,),
        arrival="fixed" if executor == "simulate" else "ready",
        executor=executor,
        log_every=steps + 1,
        device="cpu",
    )


def play(case: Case, *, width: int, steps: int) -> dict[str, Any]:
    """In virtual time, in which a backward takes as long as two forwards: a line of the results."""
    prepared = prepare(make_config(case, width=width, steps=steps, executor="simulate"))
    costs = prepared.config.costs
    clock = virtual_clock(costs, num_stages=NUM_STAGES)
    stages = [build_stage(prepared, index, clock=clock) for index in range(NUM_STAGES)]
    sent: Counter[tuple[int, int]] = Counter()

    def note(sender: int, send: Send) -> None:
        if isinstance(send.message, Activation):
            sent[sender, send.to] += _num_bytes(send.message.h)
        elif isinstance(send.message, Gradient) and send.message.value is not None:
            sent[sender, send.to] += _num_bytes(send.message.value)

    end_s = simulate(
        stages,
        make_feed(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(NUM_STAGES)],
        clock=clock,
        costs=costs,
        on_drained=lambda stage, drain: None,
        on_send=note,
    )
    boundaries = range(NUM_STAGES - 1)
    return {
        "how": "virtual",
        "period_s": round(end_s / steps, 4),
        "waiting": [round(1 - stage.recorder.totals.busy_s / end_s, 4) for stage in stages],
        "up_bytes": [round(sent[index, index + 1] / steps) for index in boundaries],
        "down_bytes": [round(sent[index + 1, index] / steps) for index in boundaries],
    }


def run_ranks(world: World, options: Options) -> None:
    """On one of the two ranks: all cases, again and again; rank 0 records them."""
    torch.set_num_threads(1)
    console = Console(quiet=world.rank > 0)
    for number in range(options.rounds):
        for index, case in enumerate(CASES):
            here = replace(world, prefix=f"{world.prefix}/{number}/{index}")
            line = _measured(case, Control(here), options)
            if world.rank == 0:
                _record(case, line, options)
            console.print(f"{case.title}: {1e3 * line['period_s']:.1f} ms a microbatch", highlight=False)


def main(options: Options) -> int:
    """Play, then start the ranks; or be one of them."""
    world = world_from_environment()
    if world is not None:
        run_ranks(world, options)
        return 0
    options = replace(options, label=options.label or time.strftime("%Y-%m-%dT%H:%M:%S"))
    console = Console()
    for case in CASES:
        line = play(case, width=options.width, steps=options.virtual_steps)
        _record(case, line, options)
        console.print(f"{case.title}: {line['period_s']:.2f} virtual seconds a microbatch", highlight=False)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "experiments.li2021_lws.stages", *sys.argv[1:], "--label", options.label]
    return subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode


def _measured(case: Case, control: Control, options: Options) -> dict[str, Any]:
    """One run of both ranks: a line of the results."""
    config = make_config(case, width=options.width, steps=options.steps, executor="distributed")
    summary = run_rank(prepare_together(config, control), control, folder=None)
    crossing = {(edge["sender"], edge["receiver"]): edge["num_bytes"] / options.steps for edge in summary["edges"]}
    middle = NUM_STAGES // 2
    return {
        "how": "ranks",
        "period_s": summary["wall_s"] / options.steps,
        "waiting": [round(stage["wait_s"] / summary["wall_s"], 4) for stage in summary["stages"]],
        "up_bytes": [round(crossing[middle - 1, middle])],
        "down_bytes": [round(crossing[middle, middle - 1])],
    }


def _record(case: Case, line: dict[str, Any], options: Options) -> None:
    if options.record:
        steps = options.virtual_steps if line["how"] == "virtual" else options.steps
        found = {"run": options.label, **case._asdict(), **line, "steps": steps, "width": options.width}
        append_line(found | {"machine": machine()}, FOLDER / "stages.jsonl")


def _network(width: int) -> list[nn.Module]:
    layers = list(make_linear((*(width,) * (NUM_STAGES * _LAYERS_EACH - 1), 10), (width,)))
    each = 2 * _LAYERS_EACH  # a layer and its ReLU; the last has none
    return [nn.Sequential(*layers[index * each : (index + 1) * each]) for index in range(NUM_STAGES)]


def _noise(width: int) -> Data:
    drawn = torch.Generator().manual_seed(0)
    x, target = torch.randn(_BATCH_SIZE, width, generator=drawn), torch.randint(10, (_BATCH_SIZE,), generator=drawn)
    return Data(train=KeyedBatches(x, target, batch_size=_BATCH_SIZE))


def _num_bytes(payload: Payload) -> int:
    return sum(member.numel() * member.element_size() for member in as_tuple(payload) if member is not None)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=Options.__doc__)))
