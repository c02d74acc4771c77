"""How does a trained network leave the project, whatever its structure has become?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dni import apply_edits_, edits_from_json, fit_, without_gates
from pipeline.configuration.partition import Partition
from pipeline.errors import CheckpointError
from pipeline.randomness.keyed import generator

__all__ = ["load", "save_network", "whole_network"]

_PARTS = "attached parts"


def whole_network(cut: Partition) -> dict[str, Tensor]:
    """The state dict of the unsplit model; gates that are not open yet are folded into the weights behind them."""
    states = [stage.state_dict() for stage in cut.stages]
    return without_gates(
        {full: state[local] for index, state in enumerate(states) for local, full in cut.names(index).items()}
    )


def save_network(path: Path, tensors: Mapping[str, Tensor], *, edits: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write a network's ordinary state dict; beside it, if parts were attached to it, what they are, as JSON."""
    torch.save(dict(tensors) if not edits else {_PARTS: list(edits), "state_dict": dict(tensors)}, path)


def load(model: nn.Module, path: str | Path) -> None:
    """Put an exported network into the unsplit model that the run began with, in the structure that it has now.

    Layers become as wide as the network's, and parts that were attached are attached. A network whose structure never
    changed is an ordinary state dict, which `model.load_state_dict` takes as well.

    Args:
        model: as the run's configuration makes it, before any event; changed in place.
        path: what `dni export` has written.

    Raises:
        CheckpointError: the file cannot be read, or is of another model; the model may then be partly changed.
    """
    try:
        saved: Any = torch.load(path, weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read: {type(error).__name__}: {error}. Export the run again."
        ) from error
    has_parts = isinstance(saved, dict) and _PARTS in saved
    edits = edits_from_json(saved[_PARTS]) if has_parts else ()
    tensors: dict[str, Tensor] = saved["state_dict"] if has_parts else saved
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(
            f"{path} must hold the tensors of a network by their names, got a {type(saved).__name__} of something "
            "else. Give it what dni export has written."
        )
    try:
        apply_edits_(model, edits, lambda name: generator(0, name, 0))
        own = model.state_dict()
        fit_(model, {name: value for name, value in tensors.items() if name in own and own[name].shape != value.shape})
        model.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is of another network than this {type(model).__name__}: {error} Make the model as the run's "
            "configuration does, before any event."
        ) from error
