"""Which runs are the same but for their seed, and in which settings do the others differ?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ConfigurationError
from pipeline.reports.reading import Run

__all__ = ["Group", "differing", "flat_settings", "group_runs"]

_NOT_COMPARED = ("seed", "name", "runs_dir")
_LONGEST_LABEL = 48


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that count as repetitions of one another."""

    label: str
    """Short, and no other group's."""
    runs: tuple[Run, ...]
    """In the order of their seeds."""
    settings: Mapping[str, str]
    """Of its first run, by dotted name."""

    @property
    def num_stages(self) -> int:
        return max(run.num_stages for run in self.runs)

    @property
    def shown(self) -> Run:
        """The run to show where only one can be: the first that came to its end, or else the first."""
        return next((run for run in self.runs if run.status == "finished"), self.runs[0])


def group_runs(runs: Sequence[Run], *, by: Sequence[str] = ()) -> list[Group]:
    """Put runs together that have the same settings, in the order they were named.

    Args:
        runs: at least one.
        by: settings that alone decide, as `sync.probability`, or `sync` for all that belongs to it; empty: all but
            seed, name and folder.

    Raises:
        ConfigurationError: no run has a setting of that name.
    """
    settings = {id(run): flat_settings(run) for run in runs}
    known = sorted({name for found in settings.values() for name in found})
    names = [name for name in known if not by or any(name == b or name.startswith(f"{b}.") for b in by)]
    for asked in by:
        if not any(name == asked or name.startswith(f"{asked}.") for name in known):
            raise ConfigurationError(f"--by: no run has a setting {asked!r}; there are: {', '.join(known)}.")
    together: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([settings[id(run)].get(name) for name in names])
        together.setdefault(key, []).append(run)
    members = [sorted(found, key=lambda run: str(run.seed).rjust(12)) for found in together.values()]
    labels = _labels([settings[id(found[0])] for found in members], names)
    return [
        Group(label=label, runs=tuple(found), settings=settings[id(found[0])])
        for label, found in zip(labels, members, strict=True)
    ]


def differing(groups: Sequence[Group]) -> list[str]:
    """Settings in which groups differ."""
    names = sorted({name for group in groups for name in group.settings})
    return [name for name in names if len({group.settings.get(name) for group in groups}) > 1]


def flat_settings(run: Run) -> dict[str, str]:
    """What decides a run, by dotted names: its configuration, the file that is in, its cut, and every setting in
    config.json but the seed and where the run is kept."""
    record = run.record
    flat = {
        "config": record.config,
        "config file (sha256)": record.sha256[:12],
        "layers at which stages begin": "as the model comes"
        if record.at is None
        else ", ".join(record.at) or "one stage",
    }
    for name, value in record.settings.items():
        if name not in (*_NOT_COMPARED, "at"):
            flat |= _flatten(name, value)
    return flat


def _flatten(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        own = {k: v for key, part in value.items() if key != "kind" for k, v in _flatten(f"{name}.{key}", part).items()}
        return ({name: str(value["kind"])} if "kind" in value else {}) | own
    return {name: _said(value)}


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value)) if value else "none"
    if isinstance(value, Mapping):
        own = ", ".join(f"{name}={_said(part)}" for name, part in value.items() if name != "kind")
        return f"{value['kind']}({own})" if "kind" in value else own or "default"
    if isinstance(value, float):
        return f"{value:g}"
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))  # an address is another one in each process


def _labels(settings: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """Of as few settings as tell the groups apart: the configuration's name, and what else those of one name need."""
    brief = len({found["config"].rsplit(":", 1)[0] for found in settings}) == 1
    parts: list[list[str]] = [[_config_name(found, brief=brief)] if "config" in names else [] for found in settings]
    rest = [name for name in names if name != "config"]
    while rest and (alike := [i for i, part in enumerate(parts) if parts.count(part) > 1]):
        telling = max(rest, key=lambda name: len({(*parts[i], settings[i].get(name)) for i in alike}))
        rest.remove(telling)
        for i in alike:
            parts[i] = [*parts[i], f"{telling} {settings[i].get(telling, '-')}"]
    labels = [_shortened(", ".join(part)) or "all runs" for part in parts]
    again = len(set(labels)) < len(labels)
    return [f"{number}: {label}" for number, label in enumerate(labels, 1)] if again else labels


def _config_name(settings: Mapping[str, str], *, brief: bool) -> str:
    return settings["config"].rsplit(":" if brief else "/", 1)[-1]


def _shortened(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
