"""What is worth knowing of a run once it is over: summary.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import resumes_exactly
from pipeline.errors import ConfigurationError

__all__ = ["read_stages", "summarize", "write_summary"]


def summarize(
    prepared: Prepared,
    *,
    stages: Sequence[Mapping[str, Any]],
    edges: Sequence[Mapping[str, Any]] = (),
    scalars: Mapping[str, float | None],
    world_size: int,
    start: int,
    stopped_at: int,
    wall_s: float,
    restarts: int = 0,
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        prepared: the run.
        stages: every stage's entry, in order.
        edges: what each edge has carried, and how.
        scalars: loss, test_loss and test_accuracy of the last stage.
        world_size: processes.
        start: the step this session began at.
        stopped_at: the step it ended before.
        wall_s: seconds of this session.
        restarts: times that torchrun started all ranks again before this session.

    Returns:
        Fractions for accuracy and error; None where something has no meaning.
    """
    config = prepared.config
    accuracy = scalars.get("test_accuracy")
    samples = stages[0]["samples"]
    return {
        "status": "finished" if stopped_at == config.steps else "interrupted",
        "executor": config.executor,
        "num_stages": prepared.num_stages,
        "world_size": world_size,
        "steps": stopped_at,
        "resumed_at": start,
        "restarts": restarts,
        "samples": samples,
        "wall_s": wall_s,
        "samples_per_s": samples / wall_s,
        "train_loss": scalars.get("loss"),
        "test_loss": scalars.get("test_loss"),
        "test_accuracy": accuracy,
        "test_error": None if accuracy is None else 1.0 - accuracy,
        "participation": None if config.participation is None else str(config.participation),
        "idle_batch_norm": None if config.participation is None else config.idle_batch_norm,
        "metrics": {},
        "resume_exact": resumes_exactly(prepared, stopped_at),
        "stages": [dict(stage) for stage in stages],
        "edges": [dict(edge) for edge in edges],
    }


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json."""
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


def read_stages(run: Path) -> list[dict[str, Any]]:
    """The stages' entries in the summary.json of a finished run.

    Raises:
        ConfigurationError: there is none, or it cannot be read.
    """
    path = run / "summary.json"
    try:
        return [dict(stage) for stage in json.loads(path.read_text())["stages"]]
    except FileNotFoundError as error:
        raise ConfigurationError(f"there is no {path}; name the folder of a finished run.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}: {error}.") from error
