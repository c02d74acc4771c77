"""What does a run's folder say, whole or not?

A report is made of finished runs, of runs that failed, and of runs that are being written at this moment. Whatever can
be read is, and what cannot is a note; only a folder that is no run's is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConfigurationError
from pipeline.records.findings import Finding, read_findings
from pipeline.records.folder import RunRecord, read_record
from pipeline.reports.series import Series

__all__ = ["Change", "Run", "read_run", "stage_files"]

_NOT_VALUES = ("step", "time")
_KEPT = ("config.json", "summary.json", "metrics", "trace")
"""What every run leaves behind, unless something went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of structure."""

    step: int
    stage: int
    what: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is known of one run."""

    folder: Path
    record: RunRecord
    about: Mapping[str, Any]
    """The rest of config.json: versions, machine, commit."""
    status: str
    """finished, interrupted, failed, or unfinished: there is no summary (yet).

    Who resumes a run puts its error.json aside, so one that is there is of the last session.
    """
    summary: Mapping[str, Any]
    """Empty if there is none, or only that of a session before the last."""
    error: Mapping[str, Any]
    """Of a run that failed; otherwise empty."""
    series: Mapping[int, Mapping[str, Series]]
    """By stage, then by the name it was measured under."""
    changes: tuple[Change, ...]
    findings: tuple[Finding, ...]
    checkpoints: tuple[int, ...]
    """Steps."""
    notes: list[str] = field(default_factory=list)
    """What could not be read, a sentence each."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def seed(self) -> Any:
        """As configured; None if config.json does not say."""
        return self.record.settings.get("seed")

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The stages' entries in the summary; empty if there is none."""
        return [dict(stage) for stage in self.summary.get("stages", ())]

    @property
    def num_stages(self) -> int:
        """As the summary, or the files of the stages, say."""
        return max([len(self.stages), *(stage + 1 for stage in self.series)], default=0)

    @property
    def in_virtual_time(self) -> bool:
        """Whether traces are in virtual seconds."""
        return bool(self.record.settings.get("executor") == "simulate")

    @property
    def samples_per_step(self) -> float | None:
        """Of the first stage; None before there is a summary."""
        first = next(iter(self.stages), {})
        samples, forwards = first.get("samples"), first.get("forwards")
        return samples / forwards if samples and forwards else None

    @property
    def start_s(self) -> float:
        """Seconds since the epoch at which it began, as near as the files tell: its end less its duration, or else the
        first line of metrics. NaN without metrics."""
        times = [series.times_s for stage in self.series.values() for series in stage.values()]
        if not times:
            return float("nan")
        first, last = min(float(t[0]) for t in times), max(float(t[-1]) for t in times)
        wall_s = self.summary.get("wall_s")
        return first if wall_s is None or self.summary.get("resumed_at") else min(first, last - wall_s)

    def of(self, name: str) -> dict[int, Series]:
        """What was measured under a name, by stage."""
        return {stage: found[name] for stage, found in sorted(self.series.items()) if name in found}


def read_run(folder: Path) -> Run:
    """Read a run's folder as far as it can be read.

    Raises:
        ConfigurationError: it is no run's folder, or its config.json is damaged.
    """
    _check_folder(folder)
    notes: list[str] = []
    record = read_record(folder)
    config = _read_json(folder / "config.json", notes)
    summary, error = _read_json(folder / "summary.json", notes), _read_json(folder / "error.json", notes)
    series = {stage: _read_series(path, notes) for stage, path in stage_files(folder / "metrics")}
    why = "there is no summary.json"
    if _goes_beyond(series, summary):
        why = f"summary.json is of an earlier session, which ended at step {summary['steps']:,}, and is left out"
        notes += [why] if error else []
        summary = {}
    status = "failed" if error else str(summary.get("status", "finished")) if summary else "unfinished"
    if status == "unfinished":
        notes.append(_how_far(series, why))
    for name in _KEPT:
        if not (folder / name).exists() and (name != "summary.json" or status == "finished"):
            notes.append(f"there is no {name}")
    return Run(
        folder=folder,
        record=record,
        about={name: config.get(name) for name in ("versions", "machine", "commit")},
        status=status,
        summary=summary,
        error=error,
        series=series,
        changes=tuple(sorted(_read_changes(folder, notes), key=lambda change: (change.step, change.stage))),
        findings=tuple(_read_findings(folder, notes)),
        checkpoints=tuple(sorted(_checkpoint_steps(folder))),
        notes=notes,
    )


def stage_files(folder: Path) -> list[tuple[int, Path]]:
    """The files `stage-<i>.jsonl` in a folder, in order of i."""
    found = [(re.fullmatch(r"stage-(\d+)", path.stem), path) for path in folder.glob("stage-*.jsonl")]
    return sorted((int(match[1]), path) for match, path in found if match)


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise ConfigurationError(f"there is no folder {folder}. Name the folders of runs, as runs/quickstart-*.")
    if (folder / "config.json").exists():
        return
    inside = sorted(path.parent.name for path in folder.glob("*/config.json")) if folder.is_dir() else []
    hint = f" It holds {len(inside)} runs; name those: dni report {folder}/*" if inside else ""
    raise ConfigurationError(f"{folder} is not a run's folder: there is no {folder / 'config.json'}.{hint}")


def _read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    """A whole file; empty, and a note, if it is damaged. A file that is missing is no surprise here."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} cannot be read ({error})")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} holds no settings, but {type(content).__name__}")
        return {}
    return content


def _lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of a jsonl; a half-written last one and damaged ones are left out and noted."""
    where, damaged = f"{path.parent.name}/{path.name}", 0
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        notes.append(f"{where} cannot be read ({error})")
        return
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            notes.append(f"the last line of {where} is not whole and is left out")
            break
        try:
            content = json.loads(line)
            content["step"] = int(content["step"])
        except (ValueError, KeyError, TypeError):
            damaged += 1
        else:
            yield content
    if damaged:
        notes.append(f"{damaged} damaged lines of {where} are left out")


def _read_series(path: Path, notes: list[str]) -> dict[str, Series]:
    found: dict[str, tuple[list[float], list[float], list[float]]] = {}
    for line in _lines(path, notes):
        time_s = line.get("time", float("nan"))
        for name, value in line.items():
            if name == "version" and "fresh_share" not in line:
                continue  # tests and probes are written down under their own step, but later
            if name not in _NOT_VALUES and isinstance(value, int | float):
                steps, times_s, values = found.setdefault(name, ([], [], []))
                steps.append(line["step"])
                times_s.append(time_s)
                values.append(value)
    return {
        name: Series(steps=np.array(s, dtype=float), times_s=np.array(t, dtype=float), values=np.array(v, dtype=float))
        for name, (s, t, v) in found.items()
    }


def _read_changes(folder: Path, notes: list[str]) -> Iterator[Change]:
    for stage, path in stage_files(folder / "events"):
        for line in _lines(path, notes):
            yield Change(step=line["step"], stage=stage, what=str(line.get("change", "")))


def _read_findings(folder: Path, notes: list[str]) -> Iterator[Finding]:
    for path in sorted((folder / "findings").glob("*.jsonl")):
        try:
            yield from read_findings(path)
        except (ConfigurationError, OSError) as error:
            notes.append(str(error))


def _checkpoint_steps(folder: Path) -> Iterator[int]:
    for path in (folder / "checkpoints").glob("step-*"):
        if match := re.fullmatch(r"step-(\d+)", path.name):
            yield int(match[1])


def _goes_beyond(series: Mapping[int, Mapping[str, Series]], summary: Mapping[str, Any]) -> bool:
    """Whether something was measured after the summary: the run was resumed."""
    steps = summary.get("steps")
    every = [found for stage in series.values() for found in stage.values()]
    return isinstance(steps, int) and any(float(found.steps.max()) > steps for found in every)


def _how_far(series: Mapping[int, Mapping[str, Series]], why: str) -> str:
    every = [found for stage in series.values() for found in stage.values()]
    if not every:
        return "there is no summary.json and nothing was measured yet: the run has just begun, or ended at its start"
    step = max(float(found.steps.max()) for found in every)
    when = datetime.fromtimestamp(max(float(found.times_s[-1]) for found in every), UTC)
    return (
        f"{why}: the run goes on, or was killed; it last wrote at {when:%Y-%m-%d %H:%M:%S} UTC, "
        f"at step {step:,.0f}, and what is there is reported"
    )
