"""Which findings of a probe are there already, of which checkpoints, and were they found in the same way?

`findings/<name>.jsonl` holds the findings, `findings/<name>.json` the settings and the checkpoints that are complete.
What an interrupted probe has found of a checkpoint stays until the next one looks at that checkpoint again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError
from pipeline.records.durable import write_file
from pipeline.records.findings import Finding, append_findings, read_findings, write_findings

__all__ = ["KeptFindings"]


class KeptFindings:
    """The findings of one probe of one run.

    Args:
        folder: the run's.
        name: of the probe.
        settings: all that decides what is found, as JSON takes it.
        again: begin anew.

    Raises:
        ConfigurationError: there are findings made with other settings, or that cannot be read.
    """

    def __init__(self, folder: Path, name: str, *, settings: Mapping[str, Any], again: bool) -> None:
        self.path = folder / "findings" / f"{name}.jsonl"
        self._state = self.path.with_suffix(".json")
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._complete: dict[int, str] = {}
        if again:
            for path in (self.path, self._state):
                path.unlink(missing_ok=True)
        elif self._state.exists():
            self._complete = self._read()

    @property
    def complete(self) -> list[int]:
        """The steps of checkpoints all of which is found."""
        return sorted(self._complete)

    def missing(self, digests: Mapping[int, str]) -> list[int]:
        """Of these checkpoints, given by step, those that are still to be looked at, or have changed."""
        return [step for step, digest in sorted(digests.items()) if self._complete.get(step) != digest]

    def read(self) -> list[Finding]:
        """All that is found of the checkpoints that are complete.

        Raises:
            ConfigurationError: a line cannot be read.
        """
        there = read_findings(self.path) if self.path.exists() else []
        return [finding for finding in there if finding.step in self._complete]

    def begin(self, step: int) -> None:
        """Forget what is there of a checkpoint, and of those that are not complete."""
        self._complete.pop(step, None)
        write_findings(self.path, self.read())
        self._write()

    def extend(self, findings: Iterable[Finding]) -> None:
        """Write down each finding as it comes."""
        for finding in findings:
            append_findings(self.path, [finding])

    def finish(self, step: int, digest: str) -> None:
        """The checkpoint is complete."""
        self._complete[step] = digest
        self._write()

    def _write(self) -> None:
        complete = {str(step): digest for step, digest in sorted(self._complete.items())}
        text = json.dumps({"settings": self._settings, "complete": complete}, indent=1) + "\n"
        write_file(self._state, lambda file: file.write(text.encode()))

    def _read(self) -> dict[int, str]:
        try:
            content = json.loads(self._state.read_text())
            settings, complete = dict(content["settings"]), {int(s): str(d) for s, d in content["complete"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{self._state} cannot be read: {type(error).__name__}: {error}. Begin anew: --again."
            ) from error
        other = [
            name for name in sorted({*settings, *self._settings}) if settings.get(name) != self._settings.get(name)
        ]
        if other and complete:
            words = ", ".join(f"{n} was {settings.get(n)}, now it is {self._settings.get(n)}" for n in other)
            raise ConfigurationError(
                f"{self.path} holds findings made in another way: {words}. Probe with the same settings, or begin "
                "anew: --again."
            )
        return complete
