"""Do the ends of an edge find each other, and nobody else?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import RunError
from pipeline.transports.unix_socket import Listener, connect, shut_down
from tests.pipeline.pairs import connected_sockets


def test_what_one_end_sends_the_other_receives_until_the_connection_ends() -> None:
    here, there = connected_sockets()
    with here, there:
        here.sendall(b"hello")
        assert there.recv(5) == b"hello"
        shut_down(there)
        assert here.recv(5) == there.recv(5) == b""
    shut_down(here)  # as often as one likes


def test_process_of_another_user_is_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.geteuid()
    monkeypatch.setattr("os.geteuid", lambda: own + 1)
    with pytest.raises(RunError, match=f"must be of one user, here {own + 1}.* of user {own}. Run all ranks as one"):
        connected_sockets()
    with Listener() as listener:
        with monkeypatch.context() as patch:
            patch.setattr("os.geteuid", lambda: own)
            connection = connect(listener.address)
        with connection, pytest.raises(RunError, match="must be of one user"):
            listener.wait_connected()


def test_addresses_are_not_files_and_cannot_be_guessed() -> None:
    with Listener() as one, Listener() as other:
        assert one.address != other.address and len(one.address) > 32
        assert not Path(one.address).exists()
