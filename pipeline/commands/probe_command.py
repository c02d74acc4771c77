"""`dni probe`: what is measured of runs from their checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.errors import ConfigurationError
from pipeline.probes.settings import ProbeSettings
from pipeline.probes.work import ProbeWork, What

__all__ = ["probe_command"]


@dataclass(frozen=True, kw_only=True)
class _Options:
    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs. The later ones are also compared with the first, their reference."""
    what: tuple[What, ...] = ("curvature", "representations", "hessian", "landscape")
    """What is measured."""
    at: tuple[str, ...] = ("all",)
    """At which checkpoints: all that are kept, last, or their steps."""
    again: bool = False
    """Begin anew, instead of going on with the checkpoints that are missing."""
    tensorboard: bool = True
    """Draw what is found for TensorBoard, too, at the end."""
    settings: Annotated[ProbeSettings, tyro.conf.arg(name="")] = field(default_factory=ProbeSettings)


def probe_command(words: list[str]) -> int:
    """Measure runs from their checkpoints, finished or still training, all stages in one process.

    For example:
      dni probe runs/quickstart-20260101-120000
      dni probe runs/synthetic --what curvature hessian --at 500 1000 --direction used
      dni probe runs/backprop runs/synthetic --what representations --at last --samples 2000
      dni probe runs/synthetic --what hessian --layers 3 6 --top 20 --split train --samples 1000

    What is found goes to RUN/findings, a line each, where dni report looks for it, and onto TensorBoard; nothing else
    of the run is touched. Ctrl-C stops it, and the same command goes on with the checkpoints that are missing.

      curvature         rates (Newton, diagonal, cubic) by tensor, layer and stage; how subsets and stages interact
      representations   rank, silent units, linear probes and classes of each stage's output; CKA and RSA
      hessian           by layer: top eigenvalues, trace, spectral density, how near to two Kronecker factors
      landscape         the true loss, and the one that the used gradient implies, along lines and on a plane

    Probes look at copies in evaluation mode: dropout is off, BatchNorm uses its running statistics. Of networks with
    kinks (ReLU, max-pooling) derivatives are those of the smooth piece that the checkpoint lies on.
    """
    options = tyro.cli(_Options, args=words, prog="dni probe", description=probe_command.__doc__)
    if not options.runs:
        raise ConfigurationError("say which runs to probe: dni probe RUN... (see dni probe --help).")
    console = Console()
    work = ProbeWork(options.runs, options.what, options.at, options.settings, again=options.again)
    for note in work.notes():
        console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)
    tasks = [*work.tasks, *(work.publishing() if options.tensorboard else ())]
    try:
        with _bars(console) as bars:
            overall, detail = bars.add_task("checkpoints", total=len(tasks)), bars.add_task("", total=None)

            def told(what: str, done: int, total: int) -> None:
                bars.update(detail, description=what, completed=min(done, total), total=total)

            for task in tasks:
                bars.update(overall, description=task.words)
                task.run(told)
                bars.advance(overall)
    except KeyboardInterrupt:
        for line in work.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        console.print("interrupted: the same command goes on with what is missing.", style="yellow")
        return 1
    for line in work.lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
