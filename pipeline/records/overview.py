"""What does TensorBoard show of a run as a whole: its settings, its history, and how it ended?

All of it is on one board, `run`, which the process of the first stage writes. TensorBoard keeps the first that it reads
of how a session began and ended, so a run that goes on writes the beginning anew and takes the old ending away.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.configuration.config import Config
from pipeline.configuration.prepared import Prepared
from pipeline.records.board import Board
from pipeline.records.hparams import Ending, ended, results_of, settings_of, started
from pipeline.records.layout import charts_of, layout

__all__ = ["BOARD", "Overview"]

BOARD = "run"


class Overview:
    """The board of a run as a whole.

    Args:
        run: the run's folder.
        prepared: the run.
    """

    def __init__(self, run: Path, prepared: Prepared) -> None:
        self._run = run
        self._prepared = prepared

    def begin(self, step: int) -> None:
        """The run starts, or goes on from this step."""
        config = self._prepared.config
        Board.remove(self._run, BOARD, part="end")
        with Board(self._run, BOARD, part="start") as board:
            board.summary(layout(charts_of(self._prepared)), 0)
            board.summary(started(settings_of(self._prepared), at_s=time.time()), 0)
            board.text("run/settings", _table(config), 0)
        how = "goes on from" if step else "starts at"
        self._note(f"{how} step {step:,} of {config.steps:,}, executor {config.executor}", step)

    def end(self, summary: Mapping[str, Any]) -> None:
        """The run is over, with this content of its summary.json."""
        step, ending = summary["steps"], summary["status"]
        self._close(ending, step, results_of(summary))
        self._note(f"{ending} before step {step:,}, after {summary['wall_s']:,.1f} s", step)

    def fail(self, error: BaseException, step: int) -> None:
        """The run has ended with an exception, some time after this step."""
        self._close("failed", step, {})
        self._note(f"failed after step {step:,}: {type(error).__name__}: {error}", step)

    def _close(self, ending: Ending, step: int, results: Mapping[str, float]) -> None:
        with Board(self._run, BOARD, part="end") as board:
            board.summary(ended(ending, at_s=time.time()), step)
            if results:
                board.scalars(results, step)

    def _note(self, what: str, step: int) -> None:
        """A line of the run's history, in a file that stays."""
        with Board(self._run, BOARD) as board:
            board.text("run/history", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {_escaped(what)}", step)


def _table(config: Config) -> str:
    """All settings as markdown: first those that are not the default."""
    plain = Config(model=config.model, data=config.data, loss=config.loss, steps=config.steps)
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    changed = {name: value for name, value in values.items() if repr(value) != repr(getattr(plain, name))}
    rest = {name: value for name, value in values.items() if name not in changed}
    given = ("model", "data", "loss", "steps")
    chosen = {name: rest.pop(name) for name in given} | changed
    return "\n\n".join(
        f"**{title}**\n\n| setting | value |\n| --- | --- |\n"
        + "\n".join(f"| {name} | {_escaped(_shown(value))} |" for name, value in rows.items())
        for title, rows in (("chosen", chosen), ("by default", rest))
        if rows
    )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    named = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{named}" if named else str(value)


def _escaped(text: str) -> str:
    """As the cell of a table in markdown."""
    for sign in ("\\", "|", "*", "_", "<", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
