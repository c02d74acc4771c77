"""How do the ends of all edges come to be on a rank?"""

from __future__ import annotations

import os
import socket
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from types import MappingProxyType

import torch
import torch.distributed as dist

from pipeline.messages import Message
from pipeline.transports.control import Control
from pipeline.transports.edge import AttachedReceiver, EdgeStatistics, Receiver, ReceivingEnd, SendingEnd
from pipeline.transports.frames import Incoming, Outgoing
from pipeline.transports.gloo import GlooIntake, GlooSender
from pipeline.transports.in_process import InProcessSender
from pipeline.transports.mailbox import ConnectedMailbox
from pipeline.transports.nccl import NcclIntake, NcclSender
from pipeline.transports.placement import Choice, Kind
from pipeline.transports.shared_memory import SharedIntake, SharedSender
from pipeline.transports.staging import Landing
from pipeline.transports.unix_socket import Listener, connect

__all__ = ["Connections", "Edge", "edges", "leave_groups"]

_FOREVER = timedelta(days=7)
_SPARE_SLOTS = 4


@dataclass(frozen=True, kw_only=True)
class Edge:
    """One direction of a boundary, or a way beside the chain: of errors at the output, or of the network's input."""

    sender: int
    """Index of the stage that sends."""
    receiver: int
    ranks: tuple[int, int]
    """Of the sender and of the receiver."""
    kind: Kind
    num_slots: int
    """Messages that may be on their way before the sender waits."""
    direct: bool = False
    """Whether it goes beside the chain; neighbours may have it besides the boundary's own."""

    def __str__(self) -> str:
        return f"edge/{self.sender}-{self.receiver}" + "/direct" * self.direct


def edges(
    choices: Sequence[Choice],
    placement: Sequence[int],
    bounds: Sequence[int],
    *,
    direct: Mapping[tuple[int, int], Choice] = MappingProxyType({}),
) -> list[Edge]:
    """All edges of a run, in the order in which every rank makes them.

    Args:
        choices: of every boundary.
        placement: the rank of each stage.
        bounds: per boundary, the microbatches in flight.
        direct: of the edges beside the chain, by the stages that send and receive.
    """
    between_neighbours = [
        Edge(
            sender=sender,
            receiver=receiver,
            ranks=(placement[sender], placement[receiver]),
            kind=choice.kind,
            num_slots=bounds[lower] + _SPARE_SLOTS,
        )
        for lower, choice in enumerate(choices)
        for sender, receiver in ((lower, lower + 1), (lower + 1, lower))
    ]
    return between_neighbours + [
        Edge(
            sender=sender,
            receiver=receiver,
            ranks=(placement[sender], placement[receiver]),
            kind=choice.kind,
            # An error goes to who has that many in flight; an input overtakes what is in flight between the two.
            num_slots=(bounds[receiver] if sender > receiver else sum(bounds[:receiver])) + _SPARE_SLOTS,
            direct=True,
        )
        for (sender, receiver), choice in direct.items()
    ]


class Connections:
    """The ends of edges that are on this rank.

    Args:
        control: this rank's way to the others.
        mailbox: of the thread that makes the connections; edges in shared memory are waited for with it.
        deliver: called with an edge and a message that came over it; from any thread, unless it came from this rank.
        failed: called with an edge and the exception that says that its other end is gone; from any thread.
    """

    def __init__(
        self,
        control: Control,
        mailbox: ConnectedMailbox,
        *,
        deliver: Callable[[Edge, Message], None],
        failed: Callable[[Edge, BaseException], None],
    ) -> None:
        self._control, self._mailbox = control, mailbox
        self._deliver, self._failed = deliver, failed
        self._groups: dict[Edge, dist.ProcessGroup] = {}
        self._sockets: dict[Edge, socket.socket] = {}
        self._device = torch.device("cpu")
        self._senders: dict[Edge, SendingEnd] = {}
        self._receivers: list[ReceivingEnd] = []

    def connect(self, edges: Sequence[Edge], *, device: torch.device) -> dict[Edge, SendingEnd]:
        """Make the ends, while every other rank makes its own.

        Args:
            edges: of the whole run, the same on every rank.
            device: where the stages of this rank are.

        Returns:
            Where the stages of this rank hand over messages; also of edges within it.

        Raises:
            RemoteFailure: another rank has failed meanwhile.
        """
        rank = self._control.world.rank
        self._device = device
        self._groups = _make_groups(edges, self._control)
        self._sockets = _make_sockets(edges, self._control)
        for edge in edges:
            if rank == edge.ranks[0]:
                self._senders[edge] = self._sender(edge)
            elif rank == edge.ranks[1]:
                self._receivers.append(self._receiver(edge))
        return dict(self._senders)

    def start(self) -> None:
        """Begin to send and to receive."""
        for end in self._ends:
            end.start()

    def wait_stopped(self, timeout_s: float | None = None) -> None:
        """Wait until every edge has carried its last message, or for each end this long."""
        for end in self._ends:
            end.wait_stopped(timeout_s)

    def wake(self) -> None:
        """Break every connection, so that no thread stays blocked anywhere; from any thread."""
        for end in self._ends:
            end.abort()

    def abort(self) -> None:
        """Break every connection and leave. For a run that has failed."""
        self.wake()
        self.wait_stopped(timeout_s=1.0)
        leave_groups()

    def statistics(self) -> dict[Edge, EdgeStatistics]:
        """What the edges that begin on this rank have carried."""
        return {edge: sender.statistics() for edge, sender in self._senders.items()}

    @property
    def _ends(self) -> list[SendingEnd | ReceivingEnd]:
        return [*self._senders.values(), *self._receivers]

    def _sender(self, edge: Edge) -> SendingEnd:
        outgoing = Outgoing(edge.sender, edge.receiver)
        failed, slots = partial(self._failed, edge), edge.num_slots
        match edge.kind:
            case "in process":
                return InProcessSender(partial(self._deliver, edge))
            case "shared":
                return SharedSender(
                    outgoing=outgoing,
                    connection=self._sockets[edge],
                    num_slots=slots,
                    failed=failed,
                    wait_readable=self._mailbox.wait_readable,
                )
            case "gloo":
                return GlooSender(outgoing=outgoing, group=self._groups[edge], num_slots=slots, failed=failed)
            case "nccl":
                return NcclSender(
                    outgoing=outgoing, group=self._groups[edge], device=self._device, num_slots=slots, failed=failed
                )

    def _receiver(self, edge: Edge) -> ReceivingEnd:
        incoming, landing = Incoming(edge.sender, edge.receiver), Landing(self._device)
        deliver, failed = partial(self._deliver, edge), partial(self._failed, edge)
        match edge.kind:
            case "shared":
                connection = self._sockets[edge]
                shared = SharedIntake(
                    incoming=incoming, connection=connection, num_slots=edge.num_slots, landing=landing
                )
                return AttachedReceiver(
                    intake=shared, connection=connection, mailbox=self._mailbox, deliver=deliver, failed=failed
                )
            case "nccl":
                nccl = NcclIntake(incoming=incoming, group=self._groups[edge], device=self._device)
                return Receiver(intake=nccl, deliver=deliver, failed=failed)
            case _:
                gloo = GlooIntake(incoming=incoming, group=self._groups[edge], landing=landing)
                return Receiver(intake=gloo, deliver=deliver, failed=failed)


def leave_groups() -> None:
    """Give back the process groups of all edges, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _make_groups(edges: Sequence[Edge], control: Control) -> dict[Edge, dist.ProcessGroup]:
    """A process group for each edge that needs one; every rank makes all, in the same order."""
    crossing = [edge for edge in edges if edge.kind in ("gloo", "nccl")]
    if not crossing:
        return {}
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore("groups", control.client()),
        rank=control.world.rank,
        world_size=control.world.world_size,
        timeout=_FOREVER,
    )
    return {edge: dist.new_group(list(edge.ranks), backend=edge.kind, timeout=_FOREVER) for edge in crossing}


def _make_sockets(edges: Sequence[Edge], control: Control) -> dict[Edge, socket.socket]:
    """A connection for each end in shared memory on this rank.

    The receiving end says where it listens; it accepts once the sending end says that it has connected. So nobody
    waits for a rank that has failed: whoever waits, waits for what another says, and hears of failures too.
    """
    rank = control.world.rank
    shared = [edge for edge in edges if edge.kind == "shared" and rank in edge.ranks]
    if not shared:
        return {}
    outgoing = [edge for edge in shared if edge.ranks[0] == rank]
    incoming = [edge for edge in shared if edge.ranks[1] == rank]
    with ExitStack() as listening, ExitStack() as undone:
        listeners = {edge: listening.enter_context(Listener()) for edge in incoming}
        for edge, listener in listeners.items():
            control.put(f"{edge}/address", listener.address)
        sockets = {}
        for edge, address in zip(outgoing, control.gather([f"{edge}/address" for edge in outgoing]), strict=True):
            sockets[edge] = undone.enter_context(connect(address))
            control.put(f"{edge}/connected", True)
        control.gather([f"{edge}/connected" for edge in incoming])
        for edge, listener in listeners.items():
            sockets[edge] = undone.enter_context(listener.wait_connected())
        undone.pop_all()  # nothing went wrong
    _keep_from_children(sockets.values())
    return sockets


def _keep_from_children(sockets: Iterable[socket.socket]) -> None:
    """Close the connections in processes forked from this one, as a DataLoader's workers are: while one of them held a
    connection, the other end would not notice the death of this process."""
    references = [weakref.ref(connection) for connection in sockets]

    def close() -> None:
        for connection in (reference() for reference in references):
            if connection is not None:
                connection.close()

    os.register_at_fork(after_in_child=close)
