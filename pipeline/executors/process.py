"""Does a process of this host still live? Asked without a signal, a poll or a race with a process id used again.

A descriptor of a process (pidfd: Linux 5.3, Python 3.9) becomes readable when it ends, also if its parent has not yet
asked for its exit code. Elsewhere nothing is watched, and a dead rank is found by its silence.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessIdentity", "watch_process"]


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """Which process, on which host. Two of them are equal only for the same process."""

    pid: int
    host: str
    """Which start of which kernel, and which numbering of processes; empty where processes cannot be watched."""
    started: str
    """When the kernel started it: a process id is used again, but not with this."""

    @staticmethod
    def of(pid: int) -> ProcessIdentity:
        """Of a process of this host."""
        return ProcessIdentity(pid=pid, host=_host(), started=_started(pid))


def watch_process(identity: ProcessIdentity) -> int | None:
    """A descriptor that becomes readable when the process ends; None if it cannot be watched from here.

    Raises:
        ProcessLookupError: it has ended already.
    """
    if not identity.host or identity.host != _host():
        return None
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        raise
    except OSError:  # more than the system allows (no descriptor left, a sandbox)
        return None
    if _started(identity.pid) != identity.started:
        os.close(descriptor)
        raise ProcessLookupError(f"process {identity.pid} has ended; its number belongs to another one now")
    return descriptor


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbering = os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
    return f"{boot} {numbering}" if hasattr(os, "pidfd_open") else ""


def _started(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return fields.rpartition(")")[2].split()[19]  # the name before it may hold spaces; the 22nd field of all
