"""How many bytes of state does an optimiser keep from one step to the next?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.learners.updater import OptimizerFactory

__all__ = ["Watched"]


class Watched:
    """A factory whose optimisers are looked at before every step of theirs.

    What a rule lets a block forget after a step is gone by then; so at the first step of a block's turn there is, for
    a moment, more than is counted here.

    Args:
        factory: makes the optimiser.
    """

    def __init__(self, factory: OptimizerFactory) -> None:
        self._factory = factory
        self.most_bytes = 0
        """The most that was kept between two steps so far."""

    def __call__(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        optimizer = self._factory(parameters)
        optimizer.register_step_pre_hook(self._look)
        return optimizer

    def _look(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        values = (value for state in optimizer.state.values() for value in state.values())
        self.most_bytes = max(self.most_bytes, sum(value.nbytes for value in values if isinstance(value, Tensor)))
