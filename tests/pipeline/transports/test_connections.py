"""Do ranks find each other over edges of every kind, and is one that is killed noticed, with nothing left behind?"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pipeline.configuration.run import prepare
from pipeline.executors.distributed import run_rank
from pipeline.messages import Activation, Drain, Message, Stop
from pipeline.transports.connections import Connections, Edge, edges
from pipeline.transports.control import Control, World
from pipeline.transports.mailbox import ConnectedMailbox
from pipeline.transports.placement import Choice, Kind
from tests.pipeline.pairs import KINDS, WAIT_S
from tests.pipeline.transports.test_shared_memory import mapped_segments, open_descriptors, shared_files
from tests.reference import Problem
from tests.spawn import Ranks

CPU = torch.device("cpu")


def edges_of(kinds: Sequence[Kind], placement: Sequence[int]) -> list[Edge]:
    return edges([Choice(kind=kind, why="") for kind in kinds], placement, [2] * len(kinds))


def test_every_boundary_has_an_edge_each_way_with_room_for_its_bound() -> None:
    made = edges([Choice(kind="gloo", why=""), Choice(kind="in process", why="")], [0, 1, 1], [3, 5])
    assert [(edge.sender, edge.receiver, edge.ranks, edge.kind) for edge in made] == [
        (0, 1, (0, 1), "gloo"),
        (1, 0, (1, 0), "gloo"),
        (1, 2, (1, 1), "in process"),
        (2, 1, (1, 1), "in process"),
    ]
    assert [edge.num_slots for edge in made] == [7, 7, 9, 9]
    assert str(made[0]) == "edge/0-1"


def test_errors_and_inputs_have_edges_of_their_own_beside_the_chain() -> None:
    choices = [Choice(kind=kind, why="") for kind in ("shared", "in process")]
    in_process = Choice(kind="in process", why="")
    direct = {(2, 0): Choice(kind="gloo", why=""), (2, 1): in_process, (0, 2): in_process}
    made = edges(choices, [0, 1, 1], [3, 5], direct=direct)[4:]
    assert [(str(edge), edge.ranks, edge.kind, edge.num_slots) for edge in made] == [
        ("edge/2-0/direct", (1, 0), "gloo", 7),
        ("edge/2-1/direct", (1, 1), "in process", 9),
        ("edge/0-2/direct", (0, 1), "in process", 12),
    ]


def exchange(world: World) -> tuple[list[tuple[int, int, int]], dict[str, int]]:
    """Send a message over every edge of four stages on three ranks; what came here, and what was sent over each."""
    came: queue.SimpleQueue[tuple[int, int, int]] = queue.SimpleQueue()
    lost: list[BaseException] = []

    def deliver(edge: Edge, message: Message) -> None:
        if not isinstance(message, Stop):
            came.put((edge.sender, edge.receiver, message.step))

    control = Control(world)
    mailbox = ConnectedMailbox()
    connections = Connections(control, mailbox, deliver=deliver, failed=lambda edge, error: lost.append(error))
    made = edges_of(["in process", "gloo", "shared"], [0, 0, 1, 2])
    senders = connections.connect(made, device=CPU)
    connections.start()
    for edge, end in senders.items():
        end.send(Activation(step=10 * edge.sender + edge.receiver, h=torch.ones(3, 2)))
        end.send(Stop(step=0))
    connections.wait_stopped()
    control.close()
    connections.abort()  # also what has ended well may be aborted
    mailbox.close()
    sent = {f"{edge} {found.kind}": found.num_messages for edge, found in connections.statistics().items()}
    assert not lost
    return sorted(came.get() for _ in range(came.qsize())), sent


@pytest.mark.distributed
def test_ranks_are_connected_by_edges_of_different_kinds(ranks: Ranks) -> None:
    outcomes = ranks.run(exchange, world_size=3)
    assert [came for came, _ in outcomes] == [
        [(0, 1, 1), (1, 0, 10), (2, 1, 21)],
        [(1, 2, 12), (3, 2, 32)],
        [(2, 3, 23)],
    ]
    assert {key: count for _, sent in outcomes for key, count in sent.items()} == {
        "edge/0-1 in process": 2,
        "edge/1-0 in process": 2,
        "edge/1-2 gloo": 2,
        "edge/2-1 gloo": 2,
        "edge/2-3 shared": 2,
        "edge/3-2 shared": 2,
    }


def lose_a_neighbour(world: World, kind: Kind) -> dict[str, Any]:
    """Rank 1 sends a large message and kills itself; rank 0 says how it learned of it, and what is left here."""
    control = Control(world)
    before = shared_files(), mapped_segments(), open_descriptors(), threading.active_count()
    mailbox = ConnectedMailbox()
    connections = Connections(
        control,
        mailbox,
        deliver=lambda edge, message: mailbox.put((edge.sender, edge.receiver, message)),
        failed=lambda edge, error: mailbox.put(error),
    )
    ends = connections.connect(edges_of([kind], [0, 1]), device=CPU)
    senders = {(edge.sender, edge.receiver): end for edge, end in ends.items()}
    connections.start()
    senders[world.rank, 1 - world.rank].send(Activation(step=0, h=torch.ones(2, 500_000)))
    mailbox.get(timeout=WAIT_S)
    if world.rank == 1:
        if kind == "shared" and (child := os.fork()) == 0:
            signal.alarm(60)  # should rank 0 not come to end it
            signal.pause()
        control.put("child", child if kind == "shared" else None)
        control.wait_everyone("killed next")
        os.kill(os.getpid(), signal.SIGKILL)
    (child,) = control.gather(["child"])
    control.wait_everyone("killed next")
    started_s = time.monotonic()
    error = mailbox.get(timeout=WAIT_S)
    learned_s = time.monotonic() - started_s
    if child is not None:
        os.kill(child, signal.SIGKILL)  # it outlives its parent, as a DataLoader's worker may for seconds
    for step in range(50):
        senders[0, 1].send(Drain(step=step))
    connections.abort()
    mailbox.close()
    after = shared_files(), mapped_segments(), open_descriptors(), threading.active_count()
    return {"error": repr(error), "learned_s": learned_s, "before": before, "after": after}


@pytest.mark.distributed
@pytest.mark.parametrize("kind", KINDS)
def test_killed_neighbour_is_noticed_soon_and_leaves_no_segment_descriptor_or_thread(kind: str) -> None:
    pool = Ranks()  # a process that has threads of other tests should not be forked
    try:
        (_, told, found), (_, died, code) = pool.outcomes(lose_a_neighbour, kind, world_size=2)
    finally:
        pool.close()
    assert (told, died, code) == ("returned", "died", -signal.SIGKILL), found
    assert found["learned_s"] < 5.0, found  # by a time-out it would take far longer
    files, segments, descriptors, threads = found["after"]
    assert (files, segments, threads) == (found["before"][0], found["before"][1], found["before"][3])
    if kind == "shared":
        assert descriptors == found["before"][2]


def run_mixed(world: World) -> list[tuple[int, int, str, int]]:
    """A whole run over edges of all kinds; what its summary says of them."""
    problem = Problem(num_stages=5, batch_norm=False, steps=6)
    config = problem.config(executor="distributed", transport=("auto", "gloo", "shared", "gloo"))
    summary = run_rank(prepare(config, num_ranks=world.world_size), Control(world), folder=None)
    return [(e["sender"], e["receiver"], e["kind"], e["num_messages"]) for e in summary["edges"]]


@pytest.mark.distributed
def test_summary_says_what_each_edge_has_carried_and_how(ranks: Ranks) -> None:
    told = ranks.run(run_mixed, world_size=4)
    assert told[0] == told[1] == told[2] == told[3]
    ends = [(lower, lower + 1) for lower in range(4)]
    assert [(s, r) for s, r, _, _ in told[0]] == [pair for s, r in ends for pair in ((s, r), (r, s))]
    assert [kind for _, _, kind, _ in told[0][::2]] == ["in process", "gloo", "shared", "gloo"]
    assert all(count >= 6 for *_, count in told[0])
