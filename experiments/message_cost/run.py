"""What does a message, and a step of a stage, cost on the stage's own thread beside its mathematics?

`python -m experiments.message_cost.run` trains stages on several ranks under torchrun and reads each stage's thread:
all its time, less waiting, data, saving and the operations forward, backward (with the estimate), source learning and
update. The same processes then time one raw isend/irecv pair of the same size over gloo. Results are appended to
results.jsonl.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import tyro
from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient
from experiments.records import append_line
from pipeline import Config, Data, KeyedBatches, prepare
from pipeline.clock import ThreadClock, WallClock
from pipeline.executors.distributed import run_rank
from pipeline.records.folder import commit
from pipeline.transports.control import Control, World, world_from_environment

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Options:
    """For example: python -m experiments.message_cost.run --ranks 2 --widths 64 256 1024"""

    ranks: int = 2
    """Processes, one stage each."""
    widths: tuple[int, ...] = (16, 256, 1024)
    """Widths of the boundary; a microbatch of 256 samples of width 256 is 256 KiB."""
    steps: int = 400
    """Steps of each run."""
    repeats: int = 3
    """Runs of each width, interleaved with the raw pairs; the median is recorded."""


def config(width: int, *, ranks: int, steps: int) -> Config:
    """Stages of one linear layer and ReLU, linear conditional synthetic gradients, syncs with probability 0.1."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(4096, width, generator=generator), torch.randint(10, (4096,), generator=generator)
    hidden = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(ranks - 1)]
    return Config(
        model=lambda: [*hidden, nn.Linear(width, 10)],
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=256)),
        loss=nn.CrossEntropyLoss(),
        source=ConditionalSyntheticGradient(num_classes=10),
        sync=Bernoulli(0.1),
        steps=steps,
        executor="distributed",
        arrival="ready",
        log_every=100,
    )


def measure_rank(world: World, options: Options) -> None:
    """On one rank: every width by wall and by processor time, then the raw pair; rank 0 records the medians."""
    clocks = {"wall": WallClock(), "cpu": ThreadClock()}
    ours: dict[tuple[int, str], list[dict[str, Any]]] = {(w, c): [] for w in options.widths for c in clocks}
    raw: dict[int, list[float]] = {width: [] for width in options.widths}
    for repeat in range(options.repeats):
        for width in options.widths:
            name = f"{world.prefix}/{width}/{repeat}"
            for label, clock in clocks.items():
                control = Control(World(**{**vars(world), "prefix": f"{name}/{label}"}))
                prepared = prepare(config(width, ranks=world.world_size, steps=options.steps))
                ours[width, label].append(run_rank(prepared, control, folder=None, clock=clock))
            control = Control(World(**{**vars(world), "prefix": f"{name}/raw"}))
            raw[width].append(raw_pair_us(control, num_bytes=256 * width * 4))
            control.close()
    if world.rank == 0:
        for width in options.widths:
            record(options, width, wall=ours[width, "wall"], cpu=ours[width, "cpu"], raw_us=raw[width])


def raw_pair_us(control: Control, *, num_bytes: int, repeats: int = 200) -> float:
    """Median time of one isend and irecv, waited for, from rank 0 to rank 1 and back, halved."""
    world = control.world
    store = dist.PrefixStore("groups", control.client())
    dist.init_process_group(
        "gloo", store=store, rank=world.rank, world_size=world.world_size, timeout=timedelta(minutes=5)
    )
    buffer = torch.empty(num_bytes, dtype=torch.uint8)
    times = []
    for _ in range(repeats if world.rank < 2 else 0):
        started_s = time.perf_counter()
        first, second = (dist.isend, dist.irecv) if world.rank == 0 else (dist.irecv, dist.isend)
        for operation in (first, second):
            work = operation(buffer, 1 - world.rank)
            assert work is not None
            work.wait()
        times.append((time.perf_counter() - started_s) / 2)
    control.wait_everyone("raw")
    dist.destroy_process_group()
    return statistics.median(times) * 1e6 if times else 0.0


def record(
    options: Options, width: int, *, wall: list[dict[str, Any]], cpu: list[dict[str, Any]], raw_us: list[float]
) -> None:
    """Append one line per stage."""
    for index in range(len(wall[0]["stages"])):
        line = {
            "ranks": options.ranks,
            "width": width,
            "activation_bytes": 256 * width * 4,
            "stage": index,
            "steps": options.steps,
            "repeats": len(wall),
            "crossing_per_step": (index > 0) * 2 + (index < options.ranks - 1) * 2,
            "busy_us_per_step": median_us(wall, index, "busy_s"),
            "overhead_us_per_step": median_us(wall, index, "overhead_s"),
            "overhead_cpu_us_per_step": median_us(cpu, index, "overhead_s"),
            "raw_pair_us": statistics.median(raw_us),
            "torch": torch.__version__,
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
        }
        append_line(line, RESULTS)
        print(line)


def median_us(summaries: list[dict[str, Any]], index: int, name: str) -> float:
    """Of a stage's seconds per step, over the runs."""
    stages = [summary["stages"][index] for summary in summaries]
    return statistics.median(stage[name] / stage["forwards"] * 1e6 for stage in stages)


def main() -> None:
    """Start the ranks, or be one of them."""
    options = tyro.cli(Options, description=Options.__doc__)
    world = world_from_environment()
    if world is not None:
        measure_rank(world, options)
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.ranks}"]
    subprocess.run([*launcher, "-m", "experiments.message_cost.run", *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
