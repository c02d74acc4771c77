"""What makes a folder of files a whole checkpoint?

A manifest that is renamed into place last: a folder without one is not a checkpoint. It has size and SHA-256 of every
other file, so that whatever was damaged since is noticed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import CheckpointError
from pipeline.records.durable import FileDigest, find_damage, push_folder, write_file

__all__ = [
    "MANIFEST",
    "Manifest",
    "checkpoint_folder",
    "find_folders",
    "saved_steps",
    "stage_file",
    "verify",
    "write_manifest",
]

MANIFEST = "manifest.json"
_FORMAT = 2


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
    files: Mapping[str, FileDigest]
    """Every other file of the checkpoint, by name."""
    format: int = _FORMAT

    @staticmethod
    def of(content: Mapping[str, Any]) -> Manifest:
        """The manifest whose `asdict` this is, perhaps by way of JSON."""
        files = {name: FileDigest(**digest) for name, digest in content["files"].items()}
        return Manifest(**{**content, "files": files})


def checkpoint_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint at `step` is, or would be."""
    return checkpoints / f"step-{step:09d}"


def stage_file(index: int) -> str:
    """The name of a stage's file."""
    return f"stage-{index}.pt"


def find_folders(checkpoints: Path, *kinds: str) -> list[tuple[int, Path]]:
    """The folders of some kinds (`step`: whole or not; `aside`: of no use to the run any more), by step."""
    pattern = re.compile(rf"(?:{'|'.join(kinds)})-(\d{{9,}})")
    return sorted((int(m[1]), path) for path in checkpoints.glob("*-*") if (m := pattern.fullmatch(path.name)))


def saved_steps(checkpoints: Path) -> list[int]:
    """Steps of the checkpoints that have a manifest, in order; whether they are undamaged, `verify` says."""
    return [step for step, folder in find_folders(checkpoints, "step") if (folder / MANIFEST).exists()]


def write_manifest(checkpoints: Path, manifest: Manifest) -> None:
    """Make the checkpoint whole, once every stage's file is there; on return, it outlives a crash of the machine.

    Raises:
        OSError: it could not be written.
    """
    folder = checkpoint_folder(checkpoints, manifest.step)
    text = json.dumps(asdict(manifest), indent=1)
    write_file(folder / MANIFEST, lambda file: file.write(text.encode()))
    push_folder(folder)  # with the names of the stages' files, whose content is on the disk already


def verify(folder: Path) -> Manifest:
    """Read all of a checkpoint's files and compare them with what its manifest says.

    Raises:
        CheckpointError: the manifest is missing, or some files are not what was written; names each.
    """
    manifest = _read_manifest(folder)
    found = [find_damage(folder / name, digest) for name, digest in sorted(manifest.files.items())]
    if damages := [damage for damage in found if damage is not None]:
        raise CheckpointError(f"{folder} is damaged: {', '.join(damages)}.")
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text())
        if content.get("format") != _FORMAT:
            raise CheckpointError(f"{path} has format {content.get('format')}, this version reads {_FORMAT}.")
        manifest = Manifest.of(content)
        missing = {stage_file(index) for index in range(manifest.num_stages)} - manifest.files.keys()
        of_here = checkpoint_folder(folder.parent, manifest.step) == folder
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is unfinished: it has no {MANIFEST}.") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}.") from error
    if missing or not of_here:
        raise CheckpointError(
            f"{path} cannot be right: it says step {manifest.step} and {manifest.num_stages} stages, and lists "
            f"{', '.join(sorted(manifest.files))}."
        )
    return manifest
