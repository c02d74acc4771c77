"""What does it cost to get a message from one rank to another, over every kind of edge?

`python -m experiments.edges.run` starts two ranks, which send messages to and fro over edges of every kind in turns,
through the ends that a run uses, and tensors of the same size by `dist.send` and `dist.recv`. Results are appended to
results.jsonl.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.distributed as dist
import tyro
from rich.console import Console

from experiments.machine import machine
from experiments.records import append_line
from pipeline.messages import Activation, Stop
from pipeline.transports.connections import Connections, Edge
from pipeline.transports.control import Control, World, world_from_environment
from pipeline.transports.edge import SendingEnd
from pipeline.transports.mailbox import ConnectedMailbox, affordable_spin_s
from pipeline.transports.placement import Kind, device_of

__all__ = ["ASLEEP", "RAW", "Options", "main", "measure_rank"]

HERE = Path(__file__).parent
RAW = "dist.send/recv"
ASLEEP = "shared, woken"
"""As where ranks have to share cores: whoever waits sleeps at once, and has to be woken."""
_NUM_SLOTS = 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """For example: python -m experiments.edges.run --sizes 64 262144 --rounds 3"""

    sizes: tuple[int, ...] = (64, 16 << 10, 256 << 10, 1 << 20, 8 << 20)
    """Bytes of a message's tensor; multiples of 64."""
    rounds: int = 8
    """Times that all kinds and sizes are gone through, in turns."""
    count: int = 200
    """Ways to and fro of each kind and size in each round; fewer of large messages."""
    out: Path = HERE
    """Folder of results.jsonl."""
    label: str = ""
    """Name of this run in the results; empty: the time."""

    def count_of(self, size: int) -> int:
        """Ways to and fro of a size in each round: at most 64 MiB in all, but ten at least."""
        return min(self.count, max(10, (64 << 20) // size))


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What one rank measured of one kind and size in one round."""

    one_way_us: list[float]
    """Per way to and fro, half of it; within a process, the whole."""
    cpu_us: float
    """Processor time of the rank per way to and fro."""


class Ends:
    """This rank's ends of the edges between two ranks: of each kind one each way.

    Args:
        control: this rank's way to the other.
        kinds: of the edges; each once.
    """

    def __init__(self, control: Control, kinds: Sequence[Kind]) -> None:
        self._rank = control.world.rank
        self._mailbox = ConnectedMailbox()
        self._connections = Connections(
            control,
            self._mailbox,
            deliver=lambda edge, message: self._mailbox.put((edge.sender, edge.receiver, message)),
            failed=lambda edge, error: self._mailbox.put(error),
        )
        self._device = device_of("auto" if "nccl" in kinds else "cpu", local_rank=self._rank)
        edges = [edge for number, kind in enumerate(kinds) for edge in _both_ways(kind, 2 * number)]
        senders = self._connections.connect(edges, device=self._device)
        own = [edge for edge in edges if edge.ranks[0] == self._rank]
        self._senders: dict[str, SendingEnd] = {edge.kind: senders[edge] for edge in own}
        self._connections.start()

    def measure(self, kind: str, size: int, count: int) -> Samples:
        """Send so many messages to and fro, after a tenth more that are not counted."""
        h = torch.zeros(16, size // 64, device=self._device if kind == "nccl" else None)
        self._mailbox.spin_s = 0.0 if kind == ASLEEP else affordable_spin_s(2)
        send: Callable[[], object]
        wait: Callable[[], object]
        if kind == RAW:
            send, wait = partial(dist.send, h, 1 - self._rank), partial(dist.recv, h, 1 - self._rank)
        else:
            send, wait = partial(self._senders[kind.partition(",")[0]].send, Activation(step=0, h=h)), self._wait
        if kind == "in process":
            return _time((send, wait), count, ways=1)
        return _time((send, wait) if self._rank == 0 else (wait, send), count, ways=2)

    def close(self) -> None:
        """End every edge."""
        for end in self._senders.values():
            end.send(Stop(step=0))
        self._connections.wait_stopped()
        self._connections.abort()
        self._mailbox.close()

    def _wait(self) -> None:
        delivery = self._mailbox.get()
        assert not isinstance(delivery, BaseException) and isinstance(delivery[2], Activation), delivery


def _both_ways(kind: Kind, stage: int) -> list[Edge]:
    """An edge each way between a stage on rank 0 and one on rank 1; in process, one that stays on each rank."""
    ends = ((0, 0), (1, 1)) if kind == "in process" else ((0, 1), (1, 0))
    return [
        Edge(sender=stage + number, receiver=stage + 1 - number, ranks=ranks, kind=kind, num_slots=_NUM_SLOTS)
        for number, ranks in enumerate(ends)
    ]


def _time(operations: Sequence[Callable[[], object]], count: int, *, ways: int) -> Samples:
    times: list[float] = []
    cpu_s = 0.0
    for number in range(count + count // 10):
        if number == count // 10:
            times.clear()
            cpu_s = time.process_time()
        started_s = time.perf_counter()
        for operation in operations:
            operation()
        times.append((time.perf_counter() - started_s) / ways * 1e6)
    return Samples(one_way_us=times, cpu_us=(time.process_time() - cpu_s) / count * 1e6)


def measure_rank(world: World, options: Options) -> list[dict[str, Any]]:
    """On one rank: all kinds and sizes in turns; rank 0 records them, and returns what it has recorded."""
    control = Control(world)
    kinds: list[Kind] = ["in process", "shared", "gloo"]
    if torch.cuda.device_count() >= 2:
        kinds.append("nccl")
    ends = Ends(control, kinds)
    measured: dict[tuple[str, int], list[Samples]] = {}
    for number in range(options.rounds):
        for size in options.sizes:
            for kind in _turned([*kinds, ASLEEP, RAW], number):
                control.wait_everyone(f"{number}/{size}/{kind}")
                found = ends.measure(kind, size, options.count_of(size))
                measured.setdefault((kind, size), []).append(found)
    control.wait_everyone("measured")  # else a Stop would overtake a message of another edge
    ends.close()
    cpu_us = {f"{kind}/{size}": median(s.cpu_us for s in found) for (kind, size), found in measured.items()}
    control.put(f"cpu/{world.rank}", cpu_us)
    both = control.gather(["cpu/0", "cpu/1"])
    lines = [
        _line(kind, size, found, options, cpu_us=sum(cpu[f"{kind}/{size}"] for cpu in both) / 2)
        for (kind, size), found in measured.items()
    ]
    control.close()
    if world.rank == 0:
        for line in lines:
            append_line(line, options.out / "results.jsonl")
    return lines


def _turned(kinds: Sequence[str], number: int) -> list[str]:
    """Another one begins each round."""
    start = number % len(kinds)
    return [*kinds[start:], *kinds[:start]]


def _line(kind: str, size: int, found: Sequence[Samples], options: Options, *, cpu_us: float) -> dict[str, Any]:
    times = [time_us for samples in found for time_us in samples.one_way_us]
    tenths = quantiles(times, n=10)
    return {
        "run": options.label,
        "kind": kind,
        "bytes": size,
        "rounds": options.rounds,
        "samples": len(times),
        "p10_us": round(tenths[0], 1),
        "median_us": round(median(times), 1),
        "p90_us": round(tenths[-1], 1),
        "cpu_us": round(cpu_us, 1),
        **machine(),
    }


def main() -> None:
    """Start the ranks, or be one of them."""
    options = tyro.cli(Options, description=Options.__doc__)
    world = world_from_environment()
    if world is not None:
        torch.set_num_threads(1)
        lines = measure_rank(world, options)
        for line in lines if world.rank == 0 else ():
            Console(soft_wrap=True).print(
                f"{line['bytes']:>8} bytes, {line['kind']}: {line['median_us']} us one way "
                f"({line['p10_us']} to {line['p90_us']}), {line['cpu_us']} us of processors",
                highlight=False,
            )
        return
    label = options.label or time.strftime("%Y-%m-%dT%H:%M:%S")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, "-m", "experiments.edges.run", *sys.argv[1:], "--label", label]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
