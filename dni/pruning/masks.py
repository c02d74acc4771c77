"""How do numbers that were pruned stay exactly 0 while the rest of their tensor learns?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dni.measures.active import Masks
from dni.pruning.rewiring import Rewiring, kept_after
from dni.structure.forgetting import forget_, held_slots

__all__ = ["HeldMasks"]


class HeldMasks:
    """Masks of some parameters, and what holds them.

    A step is: backward; a plan, if one is due, from the dense gradients; `mask_gradients_`; the optimiser's step;
    `hold_`. After `mask_gradients_`, every optimiser of `torch.optim` that treats each number for itself (all but Muon
    and LBFGS), with its momentum and weight decay, leaves pruned entries exactly +0, and their slots 0 (Adamax's: its
    epsilon). So `hold_` may be left out where time counts; it is for all else that moves weights: Muon, noise,
    averages, corrections.

    Masks multiply, in the parameter's type, because filling by a bool is 9 times as slow; an infinite gradient of a
    pruned entry therefore becomes NaN, not 0.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], kept: Masks, *, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Prune at once: entries that are not kept become 0, and so do their slots.

        Args:
            parameters: by name; may hold more than is masked.
            kept: what stays, bool, shaped like the parameter of that name.
            optimizer: that has them, if it has stepped before.

        Raises:
            ValueError: a mask has no parameter of its name and shape, is not bool, or keeps nothing.
        """
        for name, mask in kept.items():
            _check(name, mask, parameters)
        self._parameters = {name: parameters[name] for name in kept}
        self._take(kept)
        self._clear_(optimizer, {name: ~mask for name, mask in self._kept.items()})

    @property
    def kept(self) -> dict[str, Tensor]:
        """What stays, bool, by name; also what a checkpoint has to hold."""
        return dict(self._kept)

    def densities(self) -> dict[str, float]:
        """The share of each tensor that is kept."""
        return {name: int(mask.sum()) / mask.numel() for name, mask in self._kept.items()}

    def mask_gradients_(self) -> None:
        """Before an update: take pruned entries out of `.grad`; what has none is idle and left alone."""
        moving = [(p.grad, self._factors[name]) for name, p in self._parameters.items() if p.grad is not None]
        if moving:
            with torch.no_grad():
                torch._foreach_mul_([gradient for gradient, _ in moving], [factor for _, factor in moving])

    def hold_(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """After an update: put pruned entries of weights, gradients and slots to 0, whatever has moved them."""
        self.mask_gradients_()
        values: list[Tensor] = []
        factors: list[Tensor] = []
        for name, parameter in self._parameters.items():
            own = (
                []
                if optimizer is None
                else [value for _, value, start in held_slots(optimizer, parameter) if start == 0.0]
            )
            values += [parameter, *own]
            factors += [self._factors[name].to(value.dtype) for value in (parameter, *own)]
        if values:
            with torch.no_grad():
                torch._foreach_mul_(values, factors)

    def rewire_(self, rewiring: Rewiring, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Apply a plan: what is dropped and what is grown becomes 0, with all of its slots.

        Nothing is changed if it is refused.

        Raises:
            ValueError: the plan was not made for these masks, see `kept_after`.
        """
        after = kept_after(rewiring, self._kept)
        changed = {name: mask ^ self._kept[name] for name, mask in after.items() if mask is not self._kept[name]}
        self._take(after)
        self._clear_(optimizer, changed)

    def _take(self, kept: Masks) -> None:
        self._kept = {name: mask.to(self._parameters[name].device) for name, mask in kept.items()}
        self._factors = {name: mask.to(self._parameters[name].dtype) for name, mask in self._kept.items()}

    def _clear_(self, optimizer: torch.optim.Optimizer | None, entries: Masks) -> None:
        with torch.no_grad():
            for name, chosen in entries.items():
                self._parameters[name].masked_fill_(chosen, 0.0)
                if optimizer is not None:
                    forget_(optimizer, self._parameters[name], chosen, "zero moments")


def _check(name: str, mask: Tensor, parameters: Mapping[str, Tensor]) -> None:
    if name not in parameters:
        raise ValueError(f"a mask must be of a parameter, got one of {name}; there are {', '.join(parameters)}.")
    if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
        raise ValueError(
            f"the mask of {name} must be bool and {tuple(parameters[name].shape)}, as the parameter is, got "
            f"{mask.dtype} {tuple(mask.shape)}."
        )
    if not bool(mask.any()):
        raise ValueError(f"a mask must keep something of {name}, found nothing: a layer pruned to nothing.")
