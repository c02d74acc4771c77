"""Which checkpoints of a run are kept, and which one is the best?

The newest few, and the one with the lowest test loss: where an evaluation fell on a checkpoint's step, its result lies
beside the files, in evaluation.json.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.records.checkpoint import first_whole, remove_before
from pipeline.records.durable import write_file
from pipeline.records.manifest import Manifest, checkpoint_folder, saved_steps

__all__ = ["Retention", "best"]

_EVALUATION = "evaluation.json"


class Retention:
    """Keeps the newest checkpoints of a run and the best, and removes the others.

    One process of a run has it, the one that learns the test results. It goes by what it was told: what other machines
    have just written to a shared disk need not be visible to this one yet.

    Args:
        checkpoints: the run's folder of checkpoints.
        keep_last: checkpoints to keep, the newest ones.
        keep_best: keep also the one with the lowest test loss.
        start: the step the run (re)starts at; what lies after it does not count.
    """

    def __init__(self, checkpoints: Path, *, keep_last: int, keep_best: bool, start: int) -> None:
        self._checkpoints = checkpoints
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._whole = {step for step in saved_steps(checkpoints) if step <= start}
        self._losses = _test_losses(checkpoints, self._whole)

    def evaluated(self, step: int, results: Mapping[str, float | None]) -> None:
        """Take down what the network saved at `step` comes to; the first result of a step stands.

        Raises:
            OSError: it could not be written.
        """
        loss = results.get("test_loss")
        if loss is None or step in self._losses:
            return
        self._losses[step] = loss
        text = json.dumps({"step": step, **results})
        write_file(checkpoint_folder(self._checkpoints, step) / _EVALUATION, lambda file: file.write(text.encode()))
        self._clear()

    def whole(self, step: int) -> None:
        """The checkpoint at `step` is whole, so that older ones may go."""
        self._whole.add(step)
        self._clear()

    def _clear(self) -> None:
        kept = set(sorted(self._whole)[-self._keep_last :])
        if self._keep_best:
            kept |= set(_by_loss({step: loss for step, loss in self._losses.items() if step in self._whole})[:1])
        self._whole &= kept
        remove_before(self._checkpoints, max(self._whole, default=0), kept=kept)


def best(checkpoints: Path) -> tuple[Path, Manifest, float]:
    """The whole checkpoint with the lowest test loss, and that loss. If it is damaged, the next one, with a warning.

    Raises:
        CheckpointError: no checkpoint has a test loss, or none that has is whole.
    """
    losses = _test_losses(checkpoints, saved_steps(checkpoints))
    if not losses:
        raise CheckpointError(
            f"no checkpoint in {checkpoints} has a test loss: an evaluation has to fall on a checkpoint's step. "
            "Give the run test data, and evaluate_every and checkpoint_every that meet."
        )
    folder, manifest = first_whole(checkpoints, _by_loss(losses), stacklevel=3)
    return folder, manifest, losses[manifest.step]


def _by_loss(losses: Mapping[int, float]) -> list[int]:
    """The steps, the best first, of equal ones the earlier; a loss that is not finite is the worst."""
    return sorted(losses, key=lambda step: (losses[step] if math.isfinite(losses[step]) else math.inf, step))


def _test_losses(checkpoints: Path, steps: Iterable[int]) -> dict[int, float]:
    losses = {}
    for step in steps:
        try:
            content = json.loads((checkpoint_folder(checkpoints, step) / _EVALUATION).read_text())
            losses[step] = float(content["test_loss"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # it was not evaluated; if the file is damaged, the checkpoint is as good as one that was not
    return losses
