"""Are the signs of life given and watched, by threads that fail with the run and end with it?"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch.distributed as dist

from pipeline.executors.activity import Activity
from pipeline.executors.heartbeat import Heartbeat
from pipeline.transports.control import Control, World
from tests.spawn import Ranks

Lost = queue.SimpleQueue[tuple[BaseException, bool]]
"""What was lost, and whether it can be told to others."""


def make(control: Control, lost: Lost, *, on_look: Callable[[], None] = lambda: None) -> Heartbeat:
    """The heartbeat of a rank that holds the stage of its own number."""
    return Heartbeat(
        control,
        activity=Activity(),
        stages=[[rank] for rank in range(control.world.world_size)],
        dead_after_s=1.5,
        lost=lambda error, told: lost.put((error, told is not None)),
        on_look=on_look,
    )


@pytest.fixture
def alone() -> Control:
    """A world of one rank."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    world = World(
        rank=0, world_size=1, local_rank=0, host="127.0.0.1", port=store.port, hosts_store=False, prefix="test"
    )
    return Control(world, connection=store)


def test_threads_end_when_told_to(alone: Control) -> None:
    before = threading.active_count()
    looked = threading.Event()
    heartbeat = make(alone, queue.SimpleQueue(), on_look=looked.set)
    heartbeat.start()
    assert looked.wait(timeout=30.0)
    heartbeat.stop()
    assert threading.active_count() == before
    assert heartbeat.num_gone == 0 and heartbeat.silences() == {}


def test_failure_of_the_display_is_not_dropped(alone: Control) -> None:
    lost: Lost = queue.SimpleQueue()

    def fail() -> None:
        raise BrokenPipeError("nobody reads what is shown")

    heartbeat = make(alone, lost, on_look=fail)
    heartbeat.start()
    error, _ = lost.get(timeout=30.0)
    heartbeat.stop()
    assert isinstance(error, BrokenPipeError)


def stop_the_store(world: World) -> tuple[str, bool, int]:
    """Rank 1 serves a store, and is paused; what rank 0, which uses it, makes of that, and the threads it leaves."""
    outer = Control(world)
    if world.rank == 1:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        outer.put("store", {"port": store.port, "pid": os.getpid()})
        outer.gather(["seen"])
        return "", False, 0
    (served,) = outer.gather(["store"])
    before = threading.active_count()
    lost: Lost = queue.SimpleQueue()
    looked = threading.Event()
    heartbeat = make(Control(replace(world, port=served["port"])), lost, on_look=looked.set)
    heartbeat.start()
    looked.wait()
    os.kill(served["pid"], signal.SIGSTOP)
    error, told = lost.get()
    os.kill(served["pid"], signal.SIGCONT)
    outer.put("seen", True)
    heartbeat.stop()
    return f"{type(error).__name__}: {error}", told, threading.active_count() - before


@pytest.mark.distributed
def test_store_that_does_not_answer_is_lost_after_a_while(ranks: Ranks) -> None:
    (message, told, num_threads), _ = ranks.run(stop_the_store, world_size=2)
    assert message.startswith("LostStore: the store at 127.0.0.1:") and "has not answered for 2 s" in message
    assert (told, num_threads) == (False, 0)
