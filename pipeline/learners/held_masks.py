"""How does what was pruned of a stage's weights stay 0 while the rest learns?

Gradients of what is pruned are multiplied by 0 before each update, so every optimiser that treats each number for
itself leaves it at 0, with momentum and weight decay; what it remembers of it is cleared when it is pruned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni import Masks, forget_
from pipeline.learners.leaves import Leaf

__all__ = ["HeldMasks"]


class HeldMasks:
    """The masks of one stage.

    Args:
        parameters: of the stage, by global name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters
        self._factors: dict[str, Tensor] = {}
        self.kept: dict[str, Tensor] = {}
        """What is left of parameters that are pruned, bool by name."""

    def hold_(self, masks: Masks, leaves: Sequence[Leaf], optimizer: Optimizer | None) -> None:
        """Keep what these leave out at 0 from now on: what they change becomes 0, with the optimiser's memory of it.

        Args:
            masks: all of them; a parameter without one is held no longer.
            leaves: what the optimiser knows of the parameters.
            optimizer: None: there is nothing to learn.

        Raises:
            ValueError: a mask has no parameter of its name and shape; nothing is changed.
        """
        for name, mask in masks.items():
            parameter = self._parameters.get(name)
            if parameter is None or parameter.shape != mask.shape:
                found = "none" if parameter is None else str(tuple(parameter.shape))
                raise ValueError(
                    f"the mask of {name}, {tuple(mask.shape)}, must have a parameter of its shape: {found}."
                )
        kept = {name: mask.to(self._parameters[name].device) for name, mask in masks.items()}
        changed = {name: mask ^ self.kept[name] if name in self.kept else ~mask for name, mask in kept.items()}
        self.kept = kept
        self._factors = {name: mask.to(self._parameters[name].dtype) for name, mask in kept.items()}
        for name, entries in changed.items():
            if not bool(entries.any()):
                continue
            with torch.no_grad():
                self._parameters[name].masked_fill_(entries, 0.0)
            for leaf in leaves:
                if leaf.piece.parameter == name and optimizer is not None:
                    forget_(optimizer, leaf.parameter, leaf.piece.of(entries), "zero moments")

    def mask_(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Take what is pruned out of gradients, by parameter; those that have none are left alone."""
        pairs = [(own, factor) for name, factor in self._factors.items() if (own := gradients.get(name)) is not None]
        if pairs:
            torch._foreach_mul_([gradient for gradient, _ in pairs], [factor for _, factor in pairs])
