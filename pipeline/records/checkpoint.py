"""How is a drained run written down so that it can go on, elsewhere, exactly?

One file per stage under global names, read with `weights_only=True`, and a manifest (`pipeline.records.manifest`). A
checkpoint that is damaged is refused by name, and the one before it is used.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.records.durable import FileDigest, make_folder_durable, write_file
from pipeline.records.manifest import MANIFEST, Manifest, checkpoint_folder, find_folders, stage_file, verify
from pipeline.stages.stage import Stage

__all__ = [
    "first_whole",
    "latest",
    "load",
    "read_feed",
    "read_stage",
    "remove_before",
    "save_feed",
    "save_stage",
    "set_aside_after",
]

_FEED = "feed.pt"


def save_stage(checkpoints: Path, stage: Stage, *, step: int) -> dict[str, FileDigest]:
    """Write one drained stage's file of the checkpoint at `step`; what the manifest has to say of it.

    Raises:
        OSError: it could not be written.
    """
    return _save(checkpoints, stage_file(stage.index), stage.state_dict(), step=step)


def save_feed(checkpoints: Path, state: Mapping[str, Any], *, step: int) -> dict[str, FileDigest]:
    """Write down where the data stood at `step`; what the manifest has to say of the file.

    Raises:
        OSError: it could not be written.
    """
    return _save(checkpoints, _FEED, state, step=step)


def latest(checkpoints: Path) -> tuple[Path, Manifest]:
    """The newest whole checkpoint of a run. A newer one that is damaged, or was never finished, is named in a warning.

    Raises:
        CheckpointError: there is none; the message says what is wrong with each.
    """
    newest_first = [step for step, _ in reversed(find_folders(checkpoints, "step"))]
    return first_whole(checkpoints, newest_first, stacklevel=3)


def first_whole(checkpoints: Path, steps: Iterable[int], *, stacklevel: int = 2) -> tuple[Path, Manifest]:
    """The first of these checkpoints that is whole; those before it are named in a warning.

    Raises:
        CheckpointError: none is whole; the message says what is wrong with each.
    """
    refused = []
    for step in steps:
        folder = checkpoint_folder(checkpoints, step)
        try:
            manifest = verify(folder)
        except CheckpointError as error:
            refused.append(str(error))
            continue
        if refused:
            warnings.warn(" ".join([*refused, f"{folder} is used instead."]), stacklevel=stacklevel)
        return folder, manifest
    raise CheckpointError(
        f"{checkpoints} holds no whole checkpoint (a folder step-* with a {MANIFEST} and the files it lists). "
        + (" ".join(refused) or "The run ended before its first one.")
        + " Start it again, with a smaller checkpoint_every."
    )


def read_stage(folder: Path, index: int, *, device: torch.device) -> dict[str, Any]:
    """The saved state of one stage, its tensors on `device`.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return _read(folder / stage_file(index), device=device)


def read_feed(folder: Path) -> dict[str, Any]:
    """Where the data stood.

    Raises:
        CheckpointError: the checkpoint does not say, or the file is damaged.
    """
    if not (folder / _FEED).exists():
        raise CheckpointError(
            f"{folder} does not say where the data stood (there is no {_FEED}): the run was started with data that has "
            "no state_dict(). Resume with the data that the run was started with."
        )
    return _read(folder / _FEED, device=torch.device("cpu"))


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
        saved = {name: tuple(value.shape) for name, value in state["module"].items()}
        began = {name: tuple(shape) for name, shape in state.get("original", saved).items()}  # before any event
        _refuse_other_model(folder, stage.index, saved=began, own=stage.named_tensors())
        stage.load_state_dict(state)


def set_aside_after(checkpoints: Path, step: int) -> None:
    """Make room for a run that goes on from `step`: what lies after it is no checkpoint of this run any more.

    What was never finished is removed; the others are renamed, and removed once the run has passed them.

    Raises:
        CheckpointError: one cannot be moved out of the way.
    """
    for later, folder in find_folders(checkpoints, "step"):
        if later <= step:
            continue
        aside = checkpoints / f"aside-{later:09d}"
        try:
            shutil.rmtree(aside if (folder / MANIFEST).exists() else folder, ignore_errors=True)
            if folder.exists():
                os.replace(folder, aside)
        except OSError as error:
            raise CheckpointError(
                f"{folder} is in the way of a run that goes on from step {step}, and cannot be moved: {error}."
            ) from error


def remove_before(checkpoints: Path, step: int, *, kept: Collection[int]) -> None:
    """Remove the checkpoints before the whole one at `step`, finished or not, except those to be kept.

    What was set aside goes too. The manifest goes first, so that what a crash leaves of one is no checkpoint.
    """
    unwanted = [folder for s, folder in find_folders(checkpoints, "step") if s < step and s not in kept]
    unwanted += [folder for s, folder in find_folders(checkpoints, "aside") if s <= step]
    for folder in unwanted:
        try:
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)
        except OSError as error:
            warnings.warn(f"{folder} is no longer needed and could not be removed: {error}", stacklevel=2)


def _save(checkpoints: Path, name: str, state: Mapping[str, Any], *, step: int) -> dict[str, FileDigest]:
    folder = checkpoint_folder(checkpoints, step)
    make_folder_durable(folder)
    return {name: write_file(folder / name, lambda file: torch.save(state, file))}


def _read(path: Path, *, device: torch.device) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return state


def _refuse_other_model(
    folder: Path, index: int, *, saved: Mapping[str, tuple[int, ...]], own: Mapping[str, Tensor]
) -> None:
    own_shapes = {name: tuple(value.shape) for name, value in own.items()}
    for name in sorted(saved.keys() | own_shapes.keys()):
        if saved.get(name) != own_shapes.get(name):
            raise CheckpointError(
                f"{folder} is a checkpoint of another model: stage {index} has {name} with shape "
                f"{own_shapes.get(name, 'none')}, the checkpoint {saved.get(name, 'none')}. "
                "Resume with the model that the run was started with."
            )
