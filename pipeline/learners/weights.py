"""Which weights was a microbatch forwarded with, when the optimiser has moved on?

An optimiser writes into the parameters, and autograd refuses to pull a gradient back through weights that have changed
since. So a forward whose graph is to outlive updates runs on a copy of the weights; microbatches forwarded between two
updates share one.    Source: weight stashing, Narayanan et al. 2019 (PipeDream), section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["WeightVersions"]


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

    def move_gradients(self, weights: Mapping[str, Tensor]) -> None:
        """Add the gradients of a copy to those of the weights of today, as autograd would."""
        parameters = dict(self._module.named_parameters())
        for name, copied in weights.items():
            gradient, copied.grad = copied.grad, None
            parameter = parameters[name]
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient
