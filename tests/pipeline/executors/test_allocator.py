"""Does freed memory stay with the process, unless the user has decided otherwise?"""

from __future__ import annotations

import subprocess
import sys

import pytest

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


def faults(**environment: str) -> tuple[str, int]:
    """Whether memory was kept, and how many pages a process took again."""
    done = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True, env={"PATH": "", **environment}
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own setting")
def test_freed_memory_is_not_taken_from_the_system_again() -> None:
    assert faults() == ("True", pytest.approx(0, abs=200))


def test_what_the_user_has_set_stays() -> None:
    assert faults(MALLOC_TOP_PAD_="0")[0] == "False"
