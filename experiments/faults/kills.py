"""Does every run end, and end as if nothing had happened, however often and whenever its ranks are killed?

`python -m experiments.faults.kills` starts runs on two ranks under torchrun's launcher with 20 restarts each. In every
attempt but the last a rank kills itself (SIGKILL) at a moment that a keyed draw says, be it while it sets itself up,
trains or saves. Results are appended to kills.jsonl, a line per run.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from experiments.faults.cases import undisturbed
from experiments.faults.run import equal
from experiments.machine import machine
from experiments.records import append_line
from pipeline import Config, prepare, run_simulated
from pipeline.commands.cli import main as dni
from pipeline.executors.launch import launch, warm_up
from pipeline.randomness.keyed import generator
from pipeline.stages.arrival import Arrival
from pipeline.transports.control import world_from_environment

HERE = Path(__file__).parent
_NUM_RANKS = 2
_FOLDER = "DNI_KILLS_FOLDER"


@dataclass(frozen=True, kw_only=True)
class Options:
    """For example: python -m experiments.faults.kills --kills 20 --steps 1000"""

    kills: int = 200
    """Altogether; runs are started until there were so many."""
    restarts: int = 20
    """Most kills of one run."""
    steps: int = 4000
    """Of a run; it has to last until its last kill."""
    earliest_s: float = 0.2
    latest_s: float = 3.0
    """From the start of a rank's process to its death, drawn between these two."""
    ready_every: int = 5
    """Every so many runs one has the order `ready`, which is not the same twice; it only has to end."""
    out: Path = HERE / "kills.jsonl"


class Clock(nn.Module):
    """Passes its input on; writes down when it was first trained in this process. Copies, made for checks, do not."""

    def __init__(self) -> None:
        super().__init__()
        self.told = False

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Identity:
        return nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        if self.training and not self.told and _FOLDER in os.environ:
            self.told = True
            write("trains", {"attempt": attempt(), "time_s": time.time()})
        return h


def fixed() -> Config:
    """The run of the table of faults, for two ranks, and longer."""
    base = undisturbed("distributed")

    def model() -> list[nn.Module]:
        stages = base.model()
        stages[0][0] = Clock()
        return list(stages)

    return replace(base, model=model, checkpoint_every=20, evaluate_every=500, log_every=100)


def ready() -> Config:
    """The same, with the order left open."""
    return replace(fixed(), arrival="ready")


# On a rank


def be_rank(folder: str, seed: int, options: Options, *words: str) -> None:
    """Train, and die at the moment that the draw says."""
    os.environ[_FOLDER] = folder
    world = world_from_environment()
    assert world is not None
    draw = generator(seed, "kill", attempt())
    victim = int(torch.randint(_NUM_RANKS, (), generator=draw))
    share = float(torch.rand((), generator=draw))
    if attempt() < options.restarts and world.rank == victim:
        delay_s = options.earliest_s + share * (options.latest_s - options.earliest_s)
        timer = threading.Timer(delay_s, die)
        timer.daemon = True
        timer.start()
    dni(words)


def die() -> None:
    """SIGKILL to this process."""
    write("kills", {"attempt": attempt(), "time_s": time.time()})
    os.kill(os.getpid(), signal.SIGKILL)


def attempt() -> int:
    """Of torchrun, on this host."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def write(name: str, line: dict[str, Any]) -> None:
    """Append a line at once."""
    append_line(line, Path(os.environ[_FOLDER]) / f"{name}.jsonl")


# On the process that measures


def measure(number: int, options: Options, *, restarts: int, expected: dict[str, Tensor]) -> dict[str, Any]:
    """One run with this many kills, and what came of it."""
    arrival: Arrival = "ready" if (number + 1) % options.ready_every == 0 else "fixed"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["train", f"{__file__}:{arrival}", "--steps", str(options.steps)]
        started_s = time.time()
        code = launch(
            be_rank,
            [name, number, replace(options, restarts=restarts), *words, "--runs-dir", name, "--name", "run"],
            num_ranks=_NUM_RANKS,
            max_restarts=restarts,
        )
        took_s = time.time() - started_s
        kills, trains = read(folder / "kills.jsonl"), read(folder / "trains.jsonl")
        summary = json.loads((folder / "run" / "summary.json").read_text()) if code == 0 else {}
        return {
            "run": number,
            "arrival": arrival,
            "steps": options.steps,
            "exit_code": code,
            "status": summary.get("status"),
            "restarts": summary.get("restarts"),
            "num_kills": len(kills),
            "kills_while_training": sum(attempt in trains for attempt in kills),
            "equal": equal(folder / "run", expected) if arrival == "fixed" and code == 0 else None,
            "recovered_s": [round(trains[a + 1] - at_s, 3) for a, at_s in kills.items() if a + 1 in trains],
            "took_s": round(took_s, 1),
        }


def read(path: Path) -> dict[int, float]:
    """The first time of each attempt."""
    lines: Sequence[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["attempt"]: line["time_s"] for line in reversed(lines)}


def main() -> None:
    """Start runs until there were enough kills."""
    options = tyro.cli(Options, description=Options.__doc__)
    console = Console(soft_wrap=True, highlight=False)
    warm_up(be_rank)
    expected = run_simulated(prepare(replace(fixed(), executor="simulate", steps=options.steps))).export()
    killed = number = 0
    while killed < options.kills:
        line = measure(number, options, restarts=min(options.restarts, options.kills - killed), expected=expected)
        killed, number = killed + line["num_kills"], number + 1
        append_line(line | machine(), options.out)
        median_s = statistics.median(line["recovered_s"]) if line["recovered_s"] else float("nan")
        console.print(
            f"run {line['run']} ({line['arrival']}): {line['status']}, {line['num_kills']} kills ({killed} so far), "
            f"equal {line['equal']}, median {median_s:.2f} s to recover, {line['took_s']} s"
        )


if __name__ == "__main__":
    main()
