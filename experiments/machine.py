"""On which machine, and at which commit, was this measured?"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.records.folder import commit

__all__ = ["described", "machine"]


def machine() -> dict[str, Any]:
    """What is written beside a measured line."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def described(machines: Iterable[Mapping[str, Any]]) -> list[str]:
    """What `machine` gave, in words: an item of a Markdown list each, none twice."""
    texts = (
        f"* {found['date']}: {found['processor']}, {found['cores']} cores, Python {found['python']}, "
        f"torch {found['torch']}, commit {found['commit']}"
        for found in machines
    )
    return list(dict.fromkeys(texts))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
