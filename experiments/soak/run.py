"""Does a long run hold more and more memory, threads, descriptors or shared memory?

`python -m experiments.soak.run` trains small stages on four ranks until half a million messages have crossed, while
each rank looks at itself every second. A line per rank is appended to results.jsonl.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import nn

from dni import Bernoulli, SyntheticGradient
from experiments.machine import machine
from experiments.records import append_line
from pipeline import Config, Data, KeyedBatches
from pipeline.executors.agreement import prepare_together
from pipeline.executors.distributed import run_rank
from pipeline.executors.launch import launch
from pipeline.transports.control import Control, world_from_environment

HERE = Path(__file__).parent
_WIDTH = 16
_PERIOD_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """For example: python -m experiments.soak.run --messages 20000"""

    messages: int = 500_000
    """That cross between ranks, both ways together."""
    ranks: int = 4
    """Processes, one stage each."""
    out: Path = HERE / "results.jsonl"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a process holds at a moment."""

    time_s: float
    rss_mib: float
    threads: int
    descriptors: int
    segments: int
    """Mappings of memory that is shared with other processes, semaphores aside."""

    @staticmethod
    def now() -> Sample:
        """Of this process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        maps = Path("/proc/self/maps").read_text().splitlines()
        return Sample(
            time_s=time.time(),
            rss_mib=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            threads=len(os.listdir("/proc/self/task")),
            descriptors=len(os.listdir("/proc/self/fd")) - 1,  # the one that lists them
            segments=sum("/memfd:" in line or "/dev/shm/" in line for line in maps if "/dev/shm/sem." not in line),
        )


def config(options: Options) -> Config:
    """Stages that cost next to nothing, with all that travels: synthetic gradients, syncs, checkpoints."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, _WIDTH, generator=generator)
    target = torch.randint(4, (512,), generator=generator)

    def model() -> list[nn.Module]:
        hidden = [nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.ReLU()) for _ in range(options.ranks - 1)]
        return [*hidden, nn.Linear(_WIDTH, 4)]

    steps = max(20, -(-options.messages // (2 * (options.ranks - 1))))  # an activation and a gradient per boundary
    return Config(
        model=model,
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=8), test=[(x, target)]),
        loss=nn.CrossEntropyLoss(),
        source=SyntheticGradient(),
        sync=Bernoulli(0.01),
        steps=steps,
        executor="distributed",
        arrival="ready",
        max_in_flight=(16,),
        log_every=max(1, steps // 200),
        checkpoint_every=max(1, steps // 20),
        evaluate_every=max(1, steps // 20),
    )


def be_rank(folder: str, options: Options) -> None:
    """One rank, which looks at itself before, during and after the run."""
    world = world_from_environment()
    assert world is not None
    control = Control(world)
    prepared = prepare_together(config(options), control)
    gc.collect()
    before, during, over = Sample.now(), list[Sample](), threading.Event()

    def look() -> None:
        while not over.wait(_PERIOD_S):
            during.append(Sample.now())

    observer = threading.Thread(target=look, name="observer")
    observer.start()
    try:
        summary = run_rank(prepared, control, folder=Path(folder))
    finally:
        over.set()
        observer.join()
    gc.collect()
    told = {
        "rank": world.rank,
        "messages": sum(edge["num_messages"] for edge in summary["edges"]),
        "steps": summary["steps"],
        "wall_s": summary["wall_s"],
        "before": asdict(before),
        "during": [asdict(sample) for sample in during],
        "after": asdict(Sample.now()),
    }
    (Path(folder) / f"rank-{world.rank}.json").write_text(json.dumps(told))


def record(told: dict[str, Any], options: Options) -> dict[str, Any]:
    """Append what one rank has seen of itself; the first fifth of the run is its warm-up."""
    during = told["during"][len(told["during"]) // 5 :]
    growth = slope([s["time_s"] for s in during], [s["rss_mib"] for s in during])
    thin = told["during"][:: max(1, len(told["during"]) // 60)]
    line = {
        **{name: told[name] for name in ("rank", "messages", "steps", "wall_s")},
        "ranks": options.ranks,
        "rss_warm_mib": round(during[0]["rss_mib"], 2),
        "rss_end_mib": round(during[-1]["rss_mib"], 2),
        "growth_mib_per_million_messages": round(growth * told["wall_s"] / told["messages"] * 1e6, 3),
        "rss_mib": [(round(s["time_s"] - told["during"][0]["time_s"], 1), round(s["rss_mib"], 2)) for s in thin],
    }
    for name in ("threads", "descriptors", "segments"):
        line[name] = [told["before"][name], during[0][name], during[-1][name], told["after"][name]]
    append_line(line | machine(), options.out)
    return line


def slope(x: list[float], y: list[float]) -> float:
    """Of the line through the points that lies closest to them."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((value - mean_x) ** 2 for value in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0


def main() -> int:
    """Run, and record what every rank has seen; the exit code is the launcher's."""
    options = tyro.cli(Options, description=Options.__doc__)
    with tempfile.TemporaryDirectory() as folder:
        if code := launch(be_rank, [folder, options], num_ranks=options.ranks, max_restarts=0):
            return code
        for path in sorted(Path(folder).glob("rank-*.json")):
            line = record(json.loads(path.read_text()), options)
            Console().print({name: value for name, value in line.items() if name != "rss_mib"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
