"""Does freed memory stay with the process, unless the user has decided otherwise?"""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.executors import allocator

PAGE_FAULTS = """
import resource
import torch
from pipeline.executors.allocator import keep_freed_memory

kept = keep_freed_memory()
for _ in range(5):
    torch.empty(2 << 20).fill_(1.0)  # 8 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.empty(2 << 20).fill_(1.0)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


ALONE = """
import runpy
import sys

print(runpy.run_path(sys.argv[1])["keep_freed_memory"]())
"""
"""Of this the file is enough, which is started much faster than the rest of the runtime."""


def say(program: str, **environment: str) -> list[str]:
    """What a process of its own says."""
    words = [sys.executable, "-c", program, allocator.__file__]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={"PATH": "", **environment})
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own setting")
def test_freed_memory_is_not_taken_from_the_system_again() -> None:
    kept, count = say(PAGE_FAULTS)
    assert (kept, int(count)) == ("True", pytest.approx(0, abs=200))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own setting")
def test_what_the_user_has_set_stays() -> None:
    assert say(ALONE) == ["True"]
    assert say(ALONE, MALLOC_TOP_PAD_="0") == ["False"]
