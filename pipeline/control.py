"""How do ranks tell one another what is not data: who failed first, who is where, what came out?

A TCPStore apart from the edges, a client per thread (a waiting client blocks every other thread that uses it), keys
prefixed by run and attempt (a restarted attempt must not read the keys of the last one).
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from pipeline.errors import FailureRecord, RemoteFailure

__all__ = ["Control", "World", "world_from_environment"]

_LONG = timedelta(days=7)
_CONNECT = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class World:
    """Where this process stands among the others, as torchrun tells it."""

    rank: int
    world_size: int
    local_rank: int
    host: str
    port: int
    hosts_store: bool
    """Whether this process serves the store itself (there is no torchrun agent that does)."""
    prefix: str
    """Of this run and attempt."""


def world_from_environment() -> World | None:
    """The world that torchrun describes in the environment, or None outside of one."""
    env = os.environ
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return None
    rank = int(env["RANK"])
    return World(
        rank=rank,
        world_size=int(env["WORLD_SIZE"]),
        local_rank=int(env.get("LOCAL_RANK", rank)),
        host=env["MASTER_ADDR"],
        port=int(env["MASTER_PORT"]),
        hosts_store=env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and rank == 0,
        prefix=f"dni/{env.get('TORCHELASTIC_RUN_ID', 'run')}/{env.get('TORCHELASTIC_RESTART_COUNT', '0')}",
    )


class Control:
    """This rank's way to the others beside the data.

    Args:
        world: where this process stands.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._server = self._connect(is_master=True) if world.hosts_store else None
        self._store = self.client()
        self._watcher: threading.Thread | None = None

    def for_thread(self) -> Control:
        """The same control over a connection of its own, for another thread; not to be closed."""
        return Control(dataclasses.replace(self.world, hosts_store=False))

    def has(self, key: str) -> bool:
        """Whether somebody has published `key`."""
        return bool(self._store.check([key]))

    def client(self) -> dist.Store:
        """A connection of its own, for one thread."""
        return dist.PrefixStore(self.world.prefix, self._connect(is_master=False))

    def watch(self, on_failure: Callable[[FailureRecord], None]) -> None:
        """Call `on_failure`, from a thread, as soon as any rank has failed."""
        self._watcher = threading.Thread(target=self._watch, args=(on_failure,), name="control", daemon=True)
        self._watcher.start()

    def fail(self, record: FailureRecord) -> FailureRecord:
        """Publish a failure; returns the first one, which may be another rank's."""
        raw = self._store.compare_set("failure", "", json.dumps(asdict(record)))
        self._store.set("over", "1")
        return FailureRecord(**json.loads(raw))

    def wait_acknowledged(self, timeout_s: float) -> None:
        """Acknowledge the failure, and wait until every other rank has done so or the time is over."""
        if self._store.add("acknowledged", 1) >= self.world.world_size:
            self._store.set("all acknowledged", "1")
        deadline_s = time.monotonic() + timeout_s
        # Asked again and again, because a wait that expires makes the store print warnings.
        while not self._store.check(["all acknowledged"]) and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def put(self, key: str, value: Any) -> None:
        """Publish a value (JSON)."""
        self._store.set(key, json.dumps(value))

    def gather(self, keys: Sequence[str]) -> list[Any]:
        """Wait for the values of `keys`.

        Raises:
            RemoteFailure: a rank has failed, so that they may never come.
        """
        self._wait_for(keys)
        return [json.loads(self._store.get(key)) for key in keys]

    def count(self, key: str) -> int:
        """Add one to a counter all ranks share; returns the new count."""
        return self._store.add(key, 1)

    def wait_everyone(self, name: str) -> None:
        """Go on once every rank has got here.

        Raises:
            RemoteFailure: a rank has failed, so that it may never get here.
        """
        if self._store.add(f"{name}/count", 1) == self.world.world_size:
            self._store.set(f"{name}/all", "1")
        self._wait_for([f"{name}/all"])

    def close(self) -> None:
        """End the watch. Every rank calls it, once nothing can fail any more."""
        self.wait_everyone("close")
        self._store.set("over", "1")
        if self._watcher is not None:
            self._watcher.join()
        others = self.world.world_size - 1
        if self._server is None:
            if self._store.add("left", 1) == others:
                self._store.set("all left", "1")
        elif others:  # the server must outlive the others' last word
            self._store.wait(["all left"], _LONG)

    def _wait_for(self, keys: Sequence[str]) -> None:
        """Ask again and again, because a store can wait for all of several keys, but not for one of two."""
        while not self._store.check(list(keys)):
            if self._store.check(["failure"]):
                raise RemoteFailure(FailureRecord(**json.loads(self._store.get("failure"))))
            time.sleep(0.005)

    def _watch(self, on_failure: Callable[[FailureRecord], None]) -> None:
        store = self.client()
        store.wait(["over"], _LONG)
        if store.check(["failure"]):
            on_failure(FailureRecord(**json.loads(store.get("failure"))))

    def _connect(self, *, is_master: bool) -> dist.TCPStore:
        return dist.TCPStore(
            self.world.host, self.world.port, is_master=is_master, wait_for_workers=False, timeout=_CONNECT
        )
