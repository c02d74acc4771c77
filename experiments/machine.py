"""On which machine, and at which commit, was this measured?"""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.folder import commit

__all__ = ["machine"]


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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
