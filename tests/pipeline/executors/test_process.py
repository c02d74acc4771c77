"""Is the end of a process noticed at once, also of one that nobody has asked for its exit code?"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.executors.process import ProcessIdentity, watch_process

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes can be watched on Linux only")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing for long."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def ended(descriptor: int, *, timeout_s: float) -> bool:
    """Whether the process ends within this time."""
    return bool(select.select([descriptor], [], [], timeout_s)[0])


def test_killed_process_is_seen_before_its_parent_has_asked(sleeper: subprocess.Popen[bytes]) -> None:
    descriptor = watch_process(ProcessIdentity.of(sleeper.pid))
    assert descriptor is not None
    try:
        assert not ended(descriptor, timeout_s=0.0)
        sleeper.kill()
        assert ended(descriptor, timeout_s=10.0)
    finally:
        os.close(descriptor)


def test_process_that_has_ended_is_said_to_have(sleeper: subprocess.Popen[bytes]) -> None:
    identity = ProcessIdentity.of(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(ProcessLookupError):
        watch_process(identity)


def test_process_with_the_number_of_an_earlier_one_is_not_taken_for_it(sleeper: subprocess.Popen[bytes]) -> None:
    with pytest.raises(ProcessLookupError, match="belongs to another one"):
        watch_process(replace(ProcessIdentity.of(sleeper.pid), started="1"))


def test_process_of_another_host_is_not_watched(sleeper: subprocess.Popen[bytes]) -> None:
    assert watch_process(replace(ProcessIdentity.of(sleeper.pid), host="elsewhere")) is None
    assert watch_process(replace(ProcessIdentity.of(sleeper.pid), host="")) is None
