"""What does `dni export` do?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from pipeline.clock import WallClock
from pipeline.configuration.parsing import recorded_config
from pipeline.configuration.run import build_stage, prepare
from pipeline.executors.executor import Result
from pipeline.messages import Drain
from pipeline.records import checkpoint
from pipeline.records.network_file import save_network
from pipeline.records.retention import best

__all__ = ["export_command"]


@dataclass(frozen=True, kw_only=True)
class _ExportOptions:
    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: Path
    """File to write (torch.save)."""
    best: bool = False
    """Of the checkpoint with the lowest test loss, instead of the last one."""


def export_command(words: list[str]) -> int:
    """Write the whole network's state dict, loadable into the unsplit model.

    After events that changed its shapes, load it with pipeline.load(model, FILE).

    For example: dni export runs/quickstart-20260101-120000 --out network.pt
    """
    options = tyro.cli(_ExportOptions, args=words, prog="dni export", description=export_command.__doc__)
    _, config = recorded_config(options.run)
    prepared = prepare(config)
    checkpoints = options.run / "checkpoints"
    if options.best:
        path, manifest, test_loss = best(checkpoints)
    else:
        (path, manifest), test_loss = checkpoint.latest(checkpoints), None
    stages = [build_stage(prepared, index, clock=WallClock()) for index in range(prepared.num_stages)]
    checkpoint.load(path, stages, manifest)
    for stage in stages:  # what the accumulators still hold belongs to the finished network
        stage.handle(Drain(step=manifest.step, finish=manifest.finished))
        stage.resume()
    states = (checkpoint.read_stage(path, stage.index, device=stage.device) for stage in stages)
    edits = [edit for state in states for edit in state.get("edits", ())]
    save_network(options.out, Result(summary={}, cut=prepared.cut).export(), edits=edits)
    loss = "" if test_loss is None else f", test loss {test_loss:.4g}"
    Console().print(f"wrote {options.out}: the network at step {manifest.step:,} of {options.run}{loss}")
    return 0
