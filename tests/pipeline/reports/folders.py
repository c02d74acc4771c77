"""Run folders as a run leaves them behind, written by hand and small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

STEPS = (9, 19, 29, 39)


def make_run(
    folder: Path,
    *,
    seed: int = 0,
    lr: float = 0.1,
    num_stages: int = 2,
    losses: tuple[float, ...] = (2.0, 1.5, 1.2, 1.1),
    summary: bool = True,
    accuracy: float | None = 0.9,
    config: str = "nets.py:chain",
) -> Path:
    """A run of 40 steps of 8 samples."""
    settings = {"seed": seed, "name": folder.name, "runs_dir": "runs", "steps": 40, "executor": "threads"}
    record: dict[str, Any] = {
        "config": config,
        "options": [],
        "sha256": "0" * 64,
        "num_threads": 1,
        "at": None,
        "settings": {**settings, "optimizer": {"lr": lr}, "clip_norm": float("inf"), "schedule": {}},
        "versions": {"torch": "2.11"},
        "machine": {"processor": "a <b>chip</b>"},
        "commit": "abc",
    }
    for name in ("metrics", "trace", "events"):
        (folder / name).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(record))
    for stage in range(num_stages):
        _write_stage(folder, stage, last=stage == num_stages - 1, losses=losses, accuracy=accuracy)
    if summary:
        (folder / "summary.json").write_text(json.dumps(_summary(num_stages, losses[-1], accuracy)))
    return folder


def _write_stage(folder: Path, stage: int, *, last: bool, losses: tuple[float, ...], accuracy: float | None) -> None:
    lines: list[dict[str, Any]] = []
    for number, (step, loss) in enumerate(zip(STEPS, losses, strict=True)):
        line = {"step": step, "version": step + 1, "time": 1000.0 + number, "fresh_share": 0.5}
        lines.append(line | ({"loss": loss} if last else {"gradient_cosine": 0.1 * (number + 1)}))
    if last and accuracy is not None:
        lines.append({"step": 40, "version": 40, "time": 1004.0, "test_loss": losses[-1], "test_accuracy": accuracy})
    if stage == 0:
        lines += [{"step": s, "version": 1, "time": 1000.0, "width/0": 16 - s // 20} for s in (0, 20)]
        change = {"step": 20, "stage": 0, "change": "prune: 1 of 16 units of <0>"}
        (folder / "events" / "stage-0.jsonl").write_text(json.dumps(change) + "\n")
    write_lines(folder / "metrics" / f"stage-{stage}.jsonl", lines)
    events = [("F", 0.0), ("B", 0.25), ("U", 0.5), *([("S", 0.75)] if not last else [])]
    write_lines(
        folder / "trace" / f"stage-{stage}.jsonl",
        [
            {
                "event": f"{stage}{operation}{step}",
                "step": step,
                "start_s": 1000.0 + step + shift,
                "end_s": 1000.0 + step + shift + 0.25 * (operation != "S"),
                "version": step,
                "reach": 0,
            }
            for step in range(40)
            for operation, shift in events
            if operation != "S" or step == 25
        ],
    )


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """As jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _summary(num_stages: int, loss: float, accuracy: float | None) -> dict[str, Any]:
    stage = {
        "samples": 320,
        "num_parameters": 100,
        "updates": 40,
        "forwards": 40,
        "backwards": 40,
        "most_held": 1,
        "busy_s": 3.0,
        "wait_s": 1.0,
        "dropped_s": 0.5,
        "staleness_mean": 1.5,
        "staleness_max": 2,
        "staleness_counts": {"1": 20, "2": 20},
        "source_loss": 0.3,
        "gradient_cosine": 0.4,
    }
    return {
        "status": "finished",
        "executor": "threads",
        "num_stages": num_stages,
        "world_size": 1,
        "steps": 40,
        "resumed_at": 0,
        "samples": 320,
        "wall_s": 5.0,
        "samples_per_s": 64.0,
        "train_loss": loss,
        "test_loss": loss,
        "test_accuracy": accuracy,
        "stages": [{"index": index, **stage} for index in range(num_stages)],
        "edges": [
            {"sender": 0, "receiver": 1, "direct": False, "kind": "shared", "num_messages": 40, "num_bytes": 4096}
        ],
    }
