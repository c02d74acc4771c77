"""How does what was found out about a run after the fact get onto TensorBoard?

A probe calls `publish` with all of its findings. They get boards of their own, `findings/stage-00` and so on and
`findings/network`, because the boards of the stages may still be written by a run that goes on.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pipeline.errors import ConfigurationError
from pipeline.records.board import Board, board_of
from pipeline.records.findings import Curves, Finding, Matrix, Scalar, Surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Draw", "publish"]

Draw: TypeAlias = "Callable[[Curves | Matrix | Surface], Figure]"

_FAMILY = re.compile(r"[A-Za-z][\w-]*/.")


def publish(run: Path, findings: Iterable[Finding], draw: Draw) -> None:
    """Put findings onto TensorBoard: numbers as scalars, all others as pictures.

    What was published of the same families before (the first words of tags) is replaced, so a probe that is taken
    up again gives all that it has found, `read_findings(path)`, and nothing is shown twice.

    Args:
        run: the run's folder.
        findings: all that is known of each family among them.
        draw: makes a picture of what is not a number.

    Raises:
        ConfigurationError: the run is not there, or a tag has no family; nothing was written.
    """
    if not run.is_dir():
        raise ConfigurationError(f"there is no folder {run}; name the folder of a run.")
    parts: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        if not _FAMILY.match(finding.tag):
            raise ConfigurationError(
                f"the tag of a finding must be family/quantity, as hessian/trace, got {finding.tag!r} "
                f"(step {finding.step}, stage {finding.stage})."
            )
        name = "network" if finding.stage is None else board_of(finding.stage)
        parts[name, finding.tag.partition("/")[0]].append(finding)
    boards = sorted(path.name for path in (run / "tensorboard" / "findings").glob("*"))
    for name, family in itertools.product(boards, sorted({family for _, family in parts})):
        Board.remove(run, f"findings/{name}", part=family)
    for (name, family), own in parts.items():
        with Board(run, f"findings/{name}", part=family) as board:
            for finding in sorted(own, key=lambda finding: finding.step):
                match finding:
                    case Scalar(tag=tag, value=value, step=step):
                        board.scalars({tag: value}, step)
                    case Curves(tag=tag, step=step) | Matrix(tag=tag, step=step) | Surface(tag=tag, step=step):
                        board.picture(tag, draw(finding), step)
