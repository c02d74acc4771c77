"""How do the weights of a stage decay, whichever optimiser it has?

Once for each update, at the rate that the schedule gives it, before the optimiser's own step.
"""

from __future__ import annotations

from torch.optim import Optimizer

from dni import WeightDecay
from pipeline.errors import ConfigurationError

__all__ = ["Decay", "check_no_decay"]


class Decay:
    """Weight decay at work on the parameters of an optimiser.

    Args:
        rule: when, how much and how.
    """

    def __init__(self, rule: WeightDecay) -> None:
        self._rule = rule

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Begin an update: gradients are averaged and clipped, and the groups have the rate of this step."""
        for group in optimizer.param_groups:
            self._rule.apply_(group["params"], step=step, rate=group["lr"], ascends=group.get("maximize", False))


def check_no_decay(optimizer: Optimizer) -> None:
    """Refuse an optimiser that would let the weights decay a second time.

    Raises:
        ConfigurationError: it has a weight decay of its own.
    """
    for group in optimizer.param_groups:
        own = group.get("weight_decay", 0)
        if own != 0:
            raise ConfigurationError(
                "the run has a weight_decay, so its optimisers must have none of their own, but "
                f"{type(optimizer).__name__} has weight_decay {own}. Give it weight_decay=0 (AdamW's default is 0.01)."
            )
