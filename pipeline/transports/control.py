"""How do ranks tell one another what is not data: who failed first, who is where, what came out?

A TCPStore apart from the edges, a client per thread (a waiting client blocks every other thread that uses it), keys
prefixed by run and attempt (a restarted attempt must not read the keys of the last one).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from pipeline.errors import FailureRecord, LostStore, RemoteFailure, RunError

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
    """Of this run."""
    attempt: int = 0
    """Times that the run was started before; on several hosts torchrun's own count differs from host to host until
    `attempt.join_attempt` has made it one."""


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
        prefix=f"dni/{env.get('TORCHELASTIC_RUN_ID', 'run')}",
        attempt=int(env.get("TORCHELASTIC_RESTART_COUNT", "0")),
    )


class Control:
    """This rank's way to the others beside the data.

    Every method raises `LostStore` if the store has died.

    Args:
        world: where this process stands.
        scope: whose keys; by default those of the world's attempt.
        connection: to the store; a new one by default.
    """

    def __init__(self, world: World, *, scope: str | None = None, connection: dist.TCPStore | None = None) -> None:
        self.world = world
        self._scope = str(world.attempt) if scope is None else scope
        self._server = self._connect(is_master=True) if world.hosts_store else None
        self._connection = self._connect(is_master=False) if connection is None else connection
        self._store = self._scoped(self._connection)
        self._watcher: threading.Thread | None = None

    def for_thread(self) -> Control:
        """The same control over a connection of its own, for another thread; not to be closed."""
        return Control(dataclasses.replace(self.world, hosts_store=False), scope=self._scope)

    def for_run(self) -> Control:
        """The keys that every attempt of the run shares, over the same connection; not to be closed."""
        return Control(dataclasses.replace(self.world, hosts_store=False), scope="run", connection=self._connection)

    def enter(self, attempt: int) -> None:
        """Use the keys of this attempt from here on."""
        self.world = dataclasses.replace(self.world, attempt=attempt)
        self._scope = str(attempt)
        self._store = self._scoped(self._connection)

    def client(self) -> dist.Store:
        """A connection of its own, for one thread."""
        return self._scoped(self._connect(is_master=False))

    def watch(self, on_failure: Callable[[RunError], None]) -> None:
        """Call `on_failure`, from a thread, as soon as any rank has failed or the store has died."""
        self._watcher = threading.Thread(
            target=self._watch, args=(self.for_thread(), on_failure), name="control", daemon=True
        )
        self._watcher.start()

    def fail(self, record: FailureRecord) -> FailureRecord:
        """Publish a failure; returns the first one, which may be another rank's."""
        with self._reaching_the_store():
            raw = self._store.compare_set("failure", "", json.dumps(asdict(record)))
            self._store.set("over", "1")
        return FailureRecord(**json.loads(raw))

    def wait_acknowledged(self, timeout_s: float, *, num_gone: int = 0) -> None:
        """Acknowledge the failure, and wait until every rank that is not gone has done so or the time is over."""
        with self._reaching_the_store():
            if self._store.add("acknowledged", 1) >= self.world.world_size - num_gone:
                self._store.set("all acknowledged", "1")
            deadline_s = time.monotonic() + timeout_s
            # Asked again and again, because a wait that expires makes the store print warnings.
            while not self._store.check(["all acknowledged"]) and time.monotonic() < deadline_s:
                time.sleep(0.01)

    def put(self, key: str, value: Any) -> None:
        """Publish a value (JSON)."""
        with self._reaching_the_store():
            self._store.set(key, json.dumps(value))

    def has(self, key: str) -> bool:
        """Whether somebody has published `key`."""
        with self._reaching_the_store():
            return bool(self._store.check([key]))

    def get_many(self, keys: Sequence[str]) -> list[Any]:
        """The values of `keys`, all of which have been published."""
        with self._reaching_the_store():
            return [json.loads(value) for value in self._store.multi_get(list(keys))] if keys else []

    def gather(self, keys: Sequence[str]) -> list[Any]:
        """Wait for the values of `keys`.

        Raises:
            RemoteFailure: a rank has failed, so that they may never come.
        """
        self._wait_for(keys)
        return self.get_many(keys)

    def count(self, key: str) -> int:
        """Add one to a counter all ranks share; returns the new count."""
        with self._reaching_the_store():
            return self._store.add(key, 1)

    def wait_everyone(self, name: str) -> None:
        """Go on once every rank has got here.

        Raises:
            RemoteFailure: a rank has failed, so that it may never get here.
        """
        if self.count(f"{name}/count") == self.world.world_size:
            self.put(f"{name}/all", 1)
        self._wait_for([f"{name}/all"])

    def everyone_came(self, name: str) -> bool:
        """Whether every rank has got there."""
        return self.has(f"{name}/all")

    def close(self) -> None:
        """Wait until every rank closes, when nothing can fail any more, and leave."""
        self.wait_everyone("close")
        self.leave()

    def leave(self) -> None:
        """End the watch and, where this process serves the store, outlive the others' last word."""
        with self._reaching_the_store():
            self._store.set("over", "1")
            if self._watcher is not None:
                self._watcher.join()
            others = self.world.world_size - 1
            if self._server is None:
                if self._store.add("left", 1) == others:
                    self._store.set("all left", "1")
            elif others:
                self._store.wait(["all left"], _LONG)

    def _wait_for(self, keys: Sequence[str]) -> None:
        """Ask again and again, because a store can wait for all of several keys, but not for one of two."""
        with self._reaching_the_store():
            while not self._store.check(list(keys)):
                if self._store.check(["failure"]):
                    raise RemoteFailure(FailureRecord(**json.loads(self._store.get("failure"))))
                time.sleep(0.005)

    def wait_watched(self, timeout_s: float) -> None:
        """Wait for the watch to end, as it does once a failure is known everywhere."""
        if self._watcher is not None:
            self._watcher.join(timeout_s)

    @staticmethod
    def _watch(control: Control, on_failure: Callable[[RunError], None]) -> None:
        try:
            with control._reaching_the_store():
                control._store.wait(["over"], _LONG)
                failed = control._store.check(["failure"])
                raw = control._store.get("failure") if failed else b""
        except LostStore as error:
            on_failure(error)
            return
        if failed:
            on_failure(RemoteFailure(FailureRecord(**json.loads(raw))))

    @contextlib.contextmanager
    def _reaching_the_store(self) -> Iterator[None]:
        """Say whose death it is when the store does not answer."""
        try:
            yield
        except dist.DistError as error:
            raise LostStore(f"{self.world.host}:{self.world.port}") from error

    def _scoped(self, connection: dist.TCPStore) -> dist.Store:
        return dist.PrefixStore(f"{self.world.prefix}/{self._scope}", connection)

    def _connect(self, *, is_master: bool) -> dist.TCPStore:
        with self._reaching_the_store():
            return dist.TCPStore(
                self.world.host, self.world.port, is_master=is_master, wait_for_workers=False, timeout=_CONNECT
            )
