"""What has been found out about a run after the fact, and how is it kept?

A probe of a run's checkpoints writes `findings/<probe>.jsonl`, a finding a line; TensorBoard and reports draw them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.errors import ConfigurationError
from pipeline.records.durable import write_file

__all__ = ["Curves", "Finding", "Matrix", "Scalar", "Surface", "append_findings", "read_findings", "write_findings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """One number."""

    tag: str
    """What it is, as `hessian/trace/0.weight`: a family, a quantity and, if there are several, of what."""
    step: int
    """Of the checkpoint."""
    stage: int | None
    """None: of the network as a whole."""
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Some curves over a common axis: a spectral density, the loss along a line."""

    tag: str
    step: int
    stage: int | None
    x: Sequence[float]
    x_label: str
    y_label: str
    curves: Mapping[str, Sequence[float]]
    """By name, as long as x."""
    x_scale: str = "linear"
    """Of matplotlib: linear, log, symlog."""
    y_scale: str = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A number for each pair of names: similarity of layers, interaction of subsets."""

    tag: str
    step: int
    stage: int | None
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """A number at each point of a plane: a slice of a loss."""

    tag: str
    step: int
    stage: int | None
    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    y_label: str
    values: Sequence[Sequence[float]]
    """A row for each y."""


Finding: TypeAlias = Scalar | Curves | Matrix | Surface

_KINDS: dict[str, type[Any]] = {kind.__name__.lower(): kind for kind in (Scalar, Curves, Matrix, Surface)}


def append_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Add lines to a file; it is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(map(_line, findings))


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Make a file of these, in the place of what is there, once all of them are found."""
    text = "".join(map(_line, findings))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda file: file.write(text.encode()))


def read_findings(path: Path) -> list[Finding]:
    """All of a file, in order. A last line that is not whole (a probe that was killed, or writes now) is left out.

    Raises:
        ConfigurationError: another line cannot be read.
    """
    found: list[Finding] = []
    for number, line in enumerate(path.read_text().splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            content = json.loads(line)
            found.append(_KINDS[content.pop("kind")](**content))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"line {number} of {path} must be a finding, but cannot be read: {type(error).__name__}: {error}. "
                "Remove the file and probe the run again."
            ) from error
    return found


def _line(finding: Finding) -> str:
    return json.dumps({"kind": type(finding).__name__.lower(), **asdict(finding)}) + "\n"
