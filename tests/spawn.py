"""Runs a function on several ranks, in processes that are started once and used again by every test.

No ports are fixed: the parent serves a TCPStore on a free one, as torchrun's agent does. The earliest failure is the
one raised, with its own stack trace.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

import torch.distributed as dist

from pipeline.transports.control import World

_PRELOADED = ["tests.executors", "tests.faults", "torch._dynamo", "torch.utils.flop_counter", "hypothesis.strategies"]
"""What ranks need: the runtime, what PyTorch imports late, and what the modules of tests import."""
_numbers = itertools.count()


def warm_up() -> None:
    """Begin to import what the ranks will need, in the process that they are forked from, and do not wait for it."""
    multiprocessing.set_forkserver_preload(_PRELOADED)  # else every rank spends seconds on importing PyTorch
    forkserver.ensure_running()


class Ranks:
    """Worker processes, one per rank."""

    def __init__(self) -> None:
        warm_up()
        self._context = multiprocessing.get_context("forkserver")
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., Any], *arguments: Any, world_size: int) -> list[Any]:
        """`function(world, *arguments)` on every rank; returns what each returned."""
        outcomes = self.outcomes(function, *arguments, world_size=world_size)
        failures = [(when, text) for when, kind, text in outcomes if kind == "raised"]
        if failures:
            raise AssertionError(f"a rank failed:\n{min(failures)[1]}")
        return [value for _, _, value in outcomes]

    def outcomes(self, function: Callable[..., Any], *arguments: Any, world_size: int) -> list[tuple[float, str, Any]]:
        """(time, "returned", value), (time, "raised", traceback) or (time, "died", exit code) of every rank."""
        self._start(world_size)
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        prefix = f"test/{next(_numbers)}"
        for rank, (_, connection) in enumerate(self._workers[:world_size]):
            world = World(
                rank=rank,
                world_size=world_size,
                local_rank=rank,
                host="127.0.0.1",
                port=store.port,
                hosts_store=False,
                prefix=prefix,
            )
            connection.send((function, world, arguments))
        return [self._receive(rank) for rank in range(world_size)]

    def close(self) -> None:
        """End all processes."""
        for process, connection in self._workers:
            if process.is_alive():
                connection.send(None)
            process.join()
            connection.close()
        self._workers.clear()

    def _start(self, world_size: int) -> None:
        for rank in range(world_size):
            if rank < len(self._workers) and self._workers[rank][0].is_alive():
                continue
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._workers[rank : rank + 1] = [(process, ours)]

    def _receive(self, rank: int) -> tuple[float, str, Any]:
        process, connection = self._workers[rank]
        try:
            outcome: tuple[float, str, Any] = connection.recv()
        except EOFError:
            process.join()
            return time.time(), "died", process.exitcode
        return outcome


def _work(connection: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    while (job := connection.recv()) is not None:
        function, world, arguments = job
        try:
            value = function(world, *arguments)
            outcome = time.time(), "returned", value
        except BaseException as error:
            outcome = time.time(), "raised", "".join(traceback.format_exception(error))
        connection.send(outcome)
