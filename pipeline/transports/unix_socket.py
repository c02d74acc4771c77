"""How do two processes of one user on one host find each other?

At a name in the kernel's abstract namespace, which is no file and is gone with whoever has bound it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct

from pipeline.errors import RunError

__all__ = ["Listener", "connect", "shut_down"]

_CREDENTIALS = struct.Struct("3i")


class Listener:
    """Where the sending end of an edge finds the receiving one; use as a context manager."""

    def __init__(self) -> None:
        self.address = f"dni/{secrets.token_hex(16)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(f"\0{self.address}")
        self._socket.listen(1)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def wait_connected(self) -> socket.socket:
        """The connection to the sending end.

        Raises:
            RunError: a process of another user has connected.
        """
        connection, _ = self._socket.accept()
        _check_user(connection)
        return connection


def connect(address: str) -> socket.socket:
    """The connection to the receiving end that listens at `address`; made at once, whether or not it is accepted yet.

    Raises:
        RunError: a process of another user listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(f"\0{address}")
    _check_user(connection)
    return connection


def shut_down(connection: socket.socket) -> None:
    """End the connection from any thread: whoever is blocked on it, here or at the other end, goes on."""
    with contextlib.suppress(OSError):  # it was closed already, or the other end is gone
        connection.shutdown(socket.SHUT_RDWR)


def _check_user(connection: socket.socket) -> None:
    """Anybody on the host may use an abstract name, so who it is is asked of the kernel."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(raw)
    if user != os.geteuid():
        connection.close()
        raise RunError(
            f"both ends of an edge in shared memory must be of one user, here {os.geteuid()}; the other end is process "
            f"{process} of user {user}. Run all ranks as one user, or set transport to gloo."
        )
