"""Where does a run keep its files, and how is the run found again from them?"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import ConfigurationError, FailureRecord

__all__ = ["RunRecord", "choose_folder", "commit", "make_folder", "processor", "read_record", "write_error"]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """config.json: what it takes to run the same again."""

    config: str
    """`path/to/config.py:function`, or the name of a built-in."""
    options: list[str]
    """Command-line options, as they were given."""
    sha256: str
    """Of the configuration's file."""
    num_threads: int
    at: list[str] | None
    """Layers at which the stages after the first begin, as the run was cut; None where the model comes in stages."""
    settings: dict[str, Any]
    """Every setting that can be written down, for the reader."""


def choose_folder(*, config: str, name: str, runs_dir: str) -> Path:
    """The folder of a new run.

    Raises:
        ConfigurationError: `name` was given and is taken.
    """
    if name:
        folder = Path(runs_dir) / name
        if folder.exists():
            raise ConfigurationError(
                f"{folder} exists already; a run never overwrites another. Choose another --name, remove the folder, "
                f"or go on with it: dni resume {folder}"
            )
        return folder
    stem = config.rsplit(":", 1)[-1]
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder, number = Path(runs_dir) / f"{stem}-{now}", 1
    while folder.exists():
        number += 1
        folder = Path(runs_dir) / f"{stem}-{now}-{number}"
    return folder


def make_folder(folder: Path, record: RunRecord, *, exist_ok: bool = False) -> None:
    """Create a run's folder and write config.json, with the versions and the commit it runs at; the latter at once."""
    folder.mkdir(parents=True, exist_ok=exist_ok)
    content = asdict(record) | {
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {"platform": platform.platform(), "processor": processor()},
        "commit": commit(),
    }
    path = folder / "config.json"
    path.with_suffix(".tmp").write_text(json.dumps(content, indent=1, default=str) + "\n")
    os.replace(path.with_suffix(".tmp"), path)


def read_record(folder: Path) -> RunRecord:
    """What config.json says.

    Raises:
        ConfigurationError: the folder is not a run's, or the file is damaged.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text())
        return RunRecord(**{name: content[name] for name in RunRecord.__dataclass_fields__})
    except FileNotFoundError as error:
        raise ConfigurationError(f"{folder} is not a run's folder: there is no {path}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}: {error}.") from error


def write_error(folder: Path, record: FailureRecord, *, over: bool = True) -> None:
    """Write error.json, whole or not at all: several ranks may at the same time, when nobody can say who was first.

    A disk that takes nothing more must not hide the failure, which is also raised.

    Args:
        folder: the run's folder.
        record: the failure.
        over: also if there is one already.
    """
    own, shared = folder / f"error.json.{os.getpid()}", folder / "error.json"
    with contextlib.suppress(OSError):
        try:
            own.write_text(record.to_json())
            if over or not shared.exists():
                os.replace(own, shared)
        finally:
            own.unlink(missing_ok=True)


def commit() -> str | None:
    """The commit checked out where we stand, with `+changes` if the code differs from it; None outside a checkout.

    Recorded results (*.jsonl) do not count as changes: writing them down would mark all that come after.
    """
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)*.jsonl")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changes else "")


def processor() -> str:
    """The CPU's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
