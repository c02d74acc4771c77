"""Is every rank alive, and what is it doing?

Two threads a rank. One talks to the store: it gives this rank's sign of life and reads the others'. The other never
does, so that a store which stops answering is seen too: it watches the processes of this host, which it learns the end
of at once, and the silence of all others.
"""

from __future__ import annotations

import os
import queue
import selectors
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from pipeline.errors import LostRank, LostStore, RunError
from pipeline.executors.activity import Activity, Doing
from pipeline.executors.liveness import BEAT_S, Liveness
from pipeline.executors.process import ProcessIdentity, watch_process
from pipeline.transports.control import Control

__all__ = ["Heartbeat"]


class Heartbeat:
    """Gives this rank's signs of life and watches the others'.

    Args:
        control: this rank's way to the others.
        activity: what this rank's signs say of it.
        stages: of every rank, for the messages.
        dead_after_s: silence after which a rank counts as dead.
        lost: called with whatever was lost, a rank or the store; control is None where it cannot be told to others.
        on_beat: called after each beat, on the thread that talks to the store.
        on_look: called after each look at the others, on the thread that does not.
    """

    def __init__(
        self,
        control: Control,
        *,
        activity: Activity,
        stages: Sequence[Sequence[int]],
        dead_after_s: float,
        lost: Callable[[BaseException, Control | None], None],
        on_beat: Callable[[Control], None] = lambda control: None,
        on_look: Callable[[], None] = lambda: None,
    ) -> None:
        self._world = control.world
        self._control = control.for_thread()
        self._activity = activity
        self._stages = stages
        self._dead_after_s = dead_after_s
        self._lost, self._on_beat, self._on_look = lost, on_beat, on_look
        self._own_sign = ""
        self._signs: dict[int, str] = {}
        self._answers = 0
        self._liveness = Liveness(now_s=time.monotonic())
        self._gone: set[int] = set()
        self._store_lost = False
        self._begun: queue.SimpleQueue[tuple[int, ProcessIdentity]] = queue.SimpleQueue()
        self._to_tell: queue.SimpleQueue[RunError] = queue.SimpleQueue()
        self._over = threading.Event()
        self._beat_now = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = os.pipe()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._threads = [
            threading.Thread(target=self._run, args=(loop,), name=name, daemon=True)
            for name, loop in (("heartbeat", self._beat_until_over), ("watch", self._watch_until_over))
        ]

    def start(self) -> None:
        """Begin to beat and to watch."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """End both threads; only a store that does not answer can keep one beyond the time."""
        self._over.set()
        self._beat_now.set()
        os.write(self._woken, b"x")
        for thread in self._threads:
            thread.join(timeout_s)
        if not any(thread.is_alive() for thread in self._threads):
            self._close_descriptors()

    @property
    def num_gone(self) -> int:
        """Ranks that are known to be dead."""
        return len(self._gone)

    def silences(self) -> Mapping[int, float]:
        """Seconds of silence of every rank that is silent."""
        return self._liveness.silences()

    def doing(self, rank: int) -> Doing | None:
        """What a rank last said it does."""
        sign = self._own_sign if rank == self._world.rank else self._signs.get(rank)
        return Doing.from_json(sign.partition(" ")[2]) if sign else None

    def _run(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # nothing fails unseen, not even the display
            self._lost(error, None)

    # On the thread that talks to the store

    def _beat_until_over(self) -> None:
        number = 0
        own = self._world.rank
        self._control.put(f"process/{own}", asdict(ProcessIdentity.of(os.getpid())))
        while not self._over.is_set():
            number += 1
            self._own_sign = f"{number} {self._activity.look().to_json()}"
            self._control.put(f"beat/{own}", self._own_sign)
            self._read_signs()
            self._answers += 1
            self._tell()
            self._on_beat(self._control)
            self._beat_now.wait(BEAT_S)
            self._beat_now.clear()

    def _read_signs(self) -> None:
        for rank in range(self._world.world_size):
            if rank not in self._signs and rank != self._world.rank and self._control.has(f"beat/{rank}"):
                (identity,) = self._control.get_many([f"process/{rank}"])
                self._begun.put((rank, ProcessIdentity(**identity)))
                self._signs[rank] = ""
        ranks = list(self._signs)
        self._signs.update(zip(ranks, self._control.get_many([f"beat/{rank}" for rank in ranks]), strict=True))

    def _tell(self) -> None:
        """Make known what the other thread has found; but a rank that has left a run which is over is not lost."""
        while not self._to_tell.empty():
            error = self._to_tell.get()
            if not self._control.everyone_came("close"):
                self._lost(error, self._control)

    # On the thread that does not

    def _watch_until_over(self) -> None:
        while not self._over.is_set():
            for key, _ in self._selector.select(timeout=BEAT_S):
                if key.fd != self._wake:
                    self._selector.unregister(key.fd)
                    os.close(key.fd)
                    self._ended(key.data)
            while not self._begun.empty():
                self._watch_process(*self._begun.get())
            self._liveness.look(dict(self._signs), answers=self._answers, now_s=time.monotonic())
            self._find_dead()
            while not self._threads[0].is_alive() and not self._to_tell.empty():
                self._lost(self._to_tell.get(), None)  # the store has died, perhaps with that rank
            self._on_look()

    def _watch_process(self, rank: int, identity: ProcessIdentity) -> None:
        try:
            descriptor = watch_process(identity)
        except ProcessLookupError:
            self._ended(rank)
            return
        if descriptor is not None:
            self._selector.register(descriptor, selectors.EVENT_READ, data=rank)

    def _ended(self, rank: int) -> None:
        self._gone.add(rank)
        what = f"has died or was killed; it was last seen {self.doing(rank)}"
        self._report(LostRank(what, rank=rank, stages=self._stages[rank]))

    def _find_dead(self) -> None:
        for rank, silent_s in self._liveness.silences().items():
            if silent_s >= self._dead_after_s and rank not in self._gone:
                self._gone.add(rank)
                what = (
                    f"has given no sign of life for {silent_s:.0f} s (dead_after_s): it was stopped, or its host or "
                    f"the network to it is gone; it was last seen {self.doing(rank)}"
                )
                self._report(LostRank(what, rank=rank, stages=self._stages[rank]))
        if self._liveness.store_silent_s >= self._dead_after_s and not self._store_lost:
            self._store_lost = True
            address = f"{self._world.host}:{self._world.port}"
            self._lost(LostStore(address, silent_s=self._liveness.store_silent_s), None)

    def _report(self, error: RunError) -> None:
        self._to_tell.put(error)
        self._beat_now.set()

    def _close_descriptors(self) -> None:
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
        self._selector.close()
        os.close(self._woken)
