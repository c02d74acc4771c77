"""How is a drained run written down so that it can go on, elsewhere, exactly?

One file per stage under global names, and a manifest that is renamed into place last: a folder without a manifest is
not a checkpoint. Files are read with `weights_only=True`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import CheckpointError
from pipeline.stage import Stage

__all__ = ["Manifest", "first_whole", "latest", "load", "read_stage", "save_stage", "write_manifest"]

_MANIFEST = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a whole checkpoint says of itself."""

    step: int
    """Training microbatches that every stage has handled."""
    num_stages: int
    exact: bool
    """Whether a run resumed from here equals one that was never stopped, bit for bit."""
    finished: bool
    """Whether the run had taken its last step."""
    format: int = _FORMAT


def save_stage(checkpoints: Path, stage: Stage, *, step: int) -> None:
    """Write one drained stage's file of the checkpoint at `step`."""
    folder = _folder(checkpoints, step)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _stage_file(stage.index)
    torch.save(stage.state_dict(), path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def write_manifest(checkpoints: Path, manifest: Manifest) -> None:
    """Make the checkpoint whole, once every stage's file is there."""
    path = _folder(checkpoints, manifest.step) / _MANIFEST
    path.with_suffix(".tmp").write_text(json.dumps(asdict(manifest), indent=1))
    os.replace(path.with_suffix(".tmp"), path)


def latest(checkpoints: Path) -> tuple[Path, Manifest]:
    """The newest whole checkpoint of a run.

    Raises:
        CheckpointError: there is none.
    """
    whole = sorted(path.parent for path in checkpoints.glob(f"step-*/{_MANIFEST}"))
    if not whole:
        raise CheckpointError(
            f"{checkpoints} holds no whole checkpoint (a folder step-* with a {_MANIFEST}). "
            "The run ended before its first one; start it again, with a smaller checkpoint_every."
        )
    path = whole[-1] / _MANIFEST
    try:
        manifest = Manifest(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if manifest.format != _FORMAT:
        raise CheckpointError(f"{path} has format {manifest.format}, this version reads {_FORMAT}.")
    return path.parent, manifest


def first_whole(checkpoints: Path, steps: Iterable[int]) -> tuple[Path, Manifest]:
    """The first of these checkpoints that is whole.

    Raises:
        CheckpointError: none is.
    """
    wanted = list(steps)
    for step in wanted:
        path = _folder(checkpoints, step) / _MANIFEST
        if path.exists():
            return path.parent, Manifest(**json.loads(path.read_text()))
    raise CheckpointError(f"{checkpoints} holds no whole checkpoint of step {', '.join(map(str, wanted))}.")


def read_stage(folder: Path, index: int, *, device: torch.device) -> dict[str, Any]:
    """The saved state of one stage, its tensors on `device`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = folder / _stage_file(index)
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return state


def load(folder: Path, stages: Sequence[Stage], manifest: Manifest) -> None:
    """Put the stages into the state that `folder` holds.

    Raises:
        CheckpointError: it is of another model; the message names the first difference.
    """
    for stage in stages:
        if manifest.num_stages != stage.settings.num_stages:
            raise CheckpointError(
                f"{folder} holds {manifest.num_stages} stages, this run has {stage.settings.num_stages}. "
                "Resume with the cut the run was started with."
            )
        state = read_stage(folder, stage.index, device=stage.device)
        _refuse_other_model(folder, stage.index, saved=state["module"], own=stage.named_tensors())
        stage.load_state_dict(state)


def _refuse_other_model(folder: Path, index: int, *, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    saved_shapes = {name: tuple(value.shape) for name, value in saved.items()}
    own_shapes = {name: tuple(value.shape) for name, value in own.items()}
    for name in sorted(saved_shapes.keys() | own_shapes.keys()):
        if saved_shapes.get(name) != own_shapes.get(name):
            raise CheckpointError(
                f"{folder} is a checkpoint of another model: stage {index} has {name} with shape "
                f"{own_shapes.get(name, 'none')}, the checkpoint {saved_shapes.get(name, 'none')}. "
                "Resume with the model that the run was started with."
            )


def _folder(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"step-{step:09d}"


def _stage_file(index: int) -> str:
    return f"stage-{index}.pt"
