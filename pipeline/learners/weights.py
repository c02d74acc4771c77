"""Which weights was a microbatch forwarded with, when the optimiser has moved on?

An optimiser writes into the parameters, and autograd refuses to pull a gradient back through weights that have changed
since. So a forward whose graph is to outlive updates runs on a copy of the weights; microbatches forwarded between two
updates share one.    Source: weight stashing, Narayanan et al. 2019 (PipeDream), section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import Tensor, nn

from dni import AxisChange, map_tensor

__all__ = ["AxisChanges", "WeightVersions", "move_gradients"]

AxisChanges: TypeAlias = Mapping[str, Sequence[AxisChange]]
"""What a change of structure made of the axes of parameters, by their names in the stage."""


class WeightVersions:
    """Copies of a module's parameters, as they were at a version; each lives as long as a microbatch refers to it.

    Args:
        module: the stage's module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._version = -1
        self._copy: dict[str, Tensor] = {}

    def of(self, version: int) -> dict[str, Tensor]:
        """A copy of today's weights, by parameter name; the same one as long as `version` is the same."""
        if version != self._version:
            self._version = version
            self._copy = {
                name: parameter.detach().clone().requires_grad_(parameter.requires_grad)
                for name, parameter in self._module.named_parameters()
            }
        return self._copy


def move_gradients(module: nn.Module, weights: Mapping[str, Tensor], changes: Sequence[AxisChanges] = ()) -> None:
    """Add gradients that other tensors hold to those of the weights of today, as autograd would.

    Args:
        module: of the stage.
        weights: a copy of its weights, or those it had before its structure changed, by name. One that is the module's
            own is left alone; gradients of what is no more are dropped.
        changes: of the structure since, in order.
    """
    parameters = dict(module.named_parameters())
    for name, holder in weights.items():
        parameter = parameters.get(name)
        if parameter is holder or holder.grad is None:
            continue
        gradient, holder.grad = holder.grad, None
        if parameter is None:
            continue
        for change in changes:
            if name in change:
                gradient = map_tensor(gradient, change[name], "gradient")
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient
