"""How good is the network on data it does not learn from?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.messages import Payload

__all__ = ["Tally"]


@dataclass
class Tally:
    """What the last stage has seen of one evaluation."""

    loss_sum: float = 0.0
    """Sum over samples."""
    num_correct: int | None = None
    """None where the task is not classification."""
    num_predictions: int = 0
    num_samples: int = 0

    def add(self, h: Payload, target: Tensor | None, *, loss_sum: float) -> None:
        """Count one batch: logits (N, C, ...) against class indices (N, ...), or only the loss."""
        output = h if isinstance(h, Tensor) else h[0]
        assert output is not None
        self.loss_sum += loss_sum
        self.num_samples += output.shape[0]
        if target is None or target.is_floating_point() or output.shape[:1] + output.shape[2:] != target.shape:
            return
        correct = output.argmax(dim=1) == target.to(output.device)
        self.num_correct = (self.num_correct or 0) + int(correct.sum())
        self.num_predictions += target.numel()

    def scalars(self) -> dict[str, float]:
        """test_loss, and test_accuracy where it means something (a fraction)."""
        values = {"test_loss": self.loss_sum / self.num_samples}
        if self.num_correct is not None:
            values["test_accuracy"] = self.num_correct / self.num_predictions
        return values
