"""Does memory that a process has freed stay with it?

A stage that updates at every microbatch frees its gradients and makes them again at the next. glibc gives freed memory
at the top of its heap back to the system in between, and taking it again costs a page fault for every 4 KiB: measured
with 16 MiB of gradients, a fifth of the stage's time (`experiments/real_stages`). Whatever the setting, results are the
same bits.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h."""
_SET_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed for this process; False where there is no glibc, or the user has decided."""
    if sys.platform != "linux" or any(name in os.environ for name in _SET_BY_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    # 32 MiB is the largest that glibc takes: what is larger is a mapping of its own, as before.
    return bool(mallopt(_MMAP_THRESHOLD, 32 << 20) and mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
