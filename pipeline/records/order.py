"""In which order did a stage handle messages? A line per message, which is all that a replay needs.

`A0` an activation of step 0, `G0` its gradient, `O0` what the last stage says of it, `I0` the network's input of that
step, `X0` an activation that was dropped, `E0` one of an evaluation, `P9` a probe, `W7` other units from below, `D8` a
drain before step 8 (`s`: it saves, `f`: it finishes the run), `Z8` the stop. Each attempt of a run, the first and those
that went on from a checkpoint, begins with a line of its own: `#`, and as JSON the step it began at and the conditions
it ran under. A message is passed to the operating system before it is handled, so that a process that dies leaves the
message it died of as the last.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.configuration.conditions import Conditions
from pipeline.errors import ConfigurationError, SaveFailure

__all__ = ["Attempt", "OrderFile", "read_order", "read_order_from", "recorded_steps", "split_order", "step_of"]

_MESSAGE = re.compile(r"[AGIOXEPWZ]\d+|D\d+s?f?")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What a stage handled from the beginning, or from a checkpoint, on."""

    since: int
    """The step it began at."""
    conditions: Conditions
    messages: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """As it is written down."""
        return ["# " + json.dumps({"since": self.since, **asdict(self.conditions)}), *self.messages]


class OrderFile:
    """The record of one stage, open for writing.

    Args:
        run: the run's folder.
        stage: the stage's index.
        since: the step this attempt begins at; of earlier ones, what came after the checkpoint of this step is dropped.
        conditions: those it runs under.
    """

    def __init__(self, run: Path, stage: int, *, since: int, conditions: Conditions) -> None:
        self._run, self._stage = run, stage
        self._path = _path(run, stage)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = split_order(read_order(run, stage), since)[0] if since else []
        attempts = [*kept, Attempt(since=since, conditions=conditions)]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for attempt in attempts for line in attempt.lines()))
        os.replace(temporary, self._path)
        self._file = self._path.open("ab", buffering=0)  # 1 us a message, and nothing is left to write at the end

    def add(self, message: str) -> None:
        """Write one message down.

        Raises:
            SaveFailure: it could not be written.
        """
        try:
            self._file.write(f"{message}\n".encode())
        except OSError as error:
            cause = OSError(error.errno, error.strerror, str(self._path))
            raise SaveFailure(stage=self._stage, step=step_of(message), folder=self._run, cause=cause) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_order(run: Path, stage: int) -> list[Attempt]:
    """What a stage handled; a half-written last line is left out. Empty if nothing was recorded.

    Raises:
        ConfigurationError: the file is not such a record; names the line.
    """
    path = _path(run, stage)
    attempts: list[Attempt] = []
    if not path.exists():
        return attempts
    for number, line in enumerate(path.read_text(errors="replace").split("\n")[:-1], 1):
        if line.startswith("#"):
            attempts.append(_read_start(line, where=f"{path}, line {number}"))
        elif attempts and _MESSAGE.fullmatch(line):
            attempts[-1].messages.append(line)
        else:
            raise ConfigurationError(
                f"{path}, line {number}: a message is written as A12, G12, I12, O12, X12, E3, P4, W7, D16s or Z20, "
                f"below a line that says where the attempt began; found {line!r}. The record was damaged or changed by "
                "hand."
            )
    return attempts


def split_order(attempts: Sequence[Attempt], step: int) -> tuple[list[Attempt], list[Attempt]]:
    """What a stage handled before it was saved at `step`, and what after; nothing before, if it never was.

    After the drain that saves it, a stage handles gradients and errors until it has been answered. And of what comes
    after the drain, a full queue drops some before the drain's own turn.
    """
    for number, attempt in enumerate(attempts):
        if attempt.since == step:
            return list(attempts[:number]), list(attempts[number:])
        for position, message in enumerate(attempt.messages):
            if message not in (f"D{step}s", f"D{step}sf"):
                continue
            end = position + 1
            while end < len(attempt.messages) and attempt.messages[end][0] in "GOX":
                end += 1
            # A run that goes on from its end has not finished there.
            until = [*attempt.messages[:position], f"D{step}s", *attempt.messages[position + 1 : end]]
            before = [message for message in until if not _drops_from(message, step)]
            after = [message for message in until if _drops_from(message, step)] + attempt.messages[end:]
            return (
                [*attempts[:number], Attempt(since=attempt.since, conditions=attempt.conditions, messages=before)],
                [Attempt(since=step, conditions=attempt.conditions, messages=after), *attempts[number + 1 :]],
            )
    return [], list(attempts)


def read_order_from(run: Path, stage: int, step: int) -> list[Attempt]:
    """What a stage handled from `step` on: from the beginning, or from a checkpoint.

    Raises:
        ConfigurationError: it was not recorded from there; says from where it was.
    """
    attempts = read_order(run, stage)
    if not attempts:
        raise ConfigurationError(
            f"{run} has no record of the order in which stage {stage} handled its messages ({_path(run, stage)}), "
            "so it cannot be replayed."
        )
    after = split_order(attempts, step)[1]
    if after[0].since == step:
        return [attempt for attempt in after if attempt.messages]
    saved = {m for attempt in attempts for m in attempt.messages if m[0] == "D" and m[-1] == "s"}
    steps = sorted({attempts[0].since, *map(step_of, saved)})
    raise ConfigurationError(
        f"{run} cannot be replayed from step {step}: what stage {stage} handled is recorded from step "
        f"{', '.join(map(str, steps))} on. Of those, choose one (--from) whose checkpoint is still there."
    )


def recorded_steps(run: Path) -> int:
    """How long a run is at least: the steps that its first stage took, and one more if it has not come to its end.

    Raises:
        ConfigurationError: as `read_order`.
    """
    attempts = read_order(run, 0)
    taken = [step_of(message) + 1 for attempt in attempts for message in attempt.messages if message[0] == "A"]
    is_over = bool(attempts) and any(message[0] == "D" and message[-1] == "f" for message in attempts[-1].messages)
    return max(taken, default=0) + (not is_over)


def step_of(message: str) -> int:
    """The step of a message as it is written down."""
    return int(message[1:].rstrip("sf"))


def _drops_from(message: str, step: int) -> bool:
    return message[0] == "X" and step_of(message) >= step


def _read_start(line: str, *, where: str) -> Attempt:
    try:
        values = json.loads(line[1:])
        return Attempt(since=int(values.pop("since")), conditions=Conditions(**values))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{where}: the start of an attempt cannot be read: {error!r}.") from error


def _path(run: Path, stage: int) -> Path:
    return run / "order" / f"stage-{stage}.txt"
