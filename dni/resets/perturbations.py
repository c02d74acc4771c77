"""How is a network shaken without losing what it has learned?

Both rules are values that can be printed and replayed: with the same keys they do the same. Which tensors are touched
is said by which are given. Optimiser state is treated as `Memory` says; as every number of a tensor is changed, "zero
moments and step" begins it anew exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.structure.forgetting import forget_
from dni.structure.keyed import Keyed, draw_normal
from dni.structure.optimizer_state import Memory

__all__ = ["Electroshock", "ShrinkAndPerturb"]


@dataclass(frozen=True, kw_only=True)
class ShrinkAndPerturb:
    """θ ← λ θ + σ θ_fresh: the noise is a fresh initialisation, scaled.

    Source: Ash & Adams 2020 (arXiv 1910.08475), and its code, λ = 0.4, σ = 0.1. λ = 0 and σ = 1 begins anew; λ = 1 and
    σ = 0 does nothing.
    """

    shrink: float = 0.4
    """λ, in [0, 1]."""
    perturb: float = 0.1
    """Factor of the fresh values, at least 0."""

    def __post_init__(self) -> None:
        _check_share("shrink", self.shrink)
        if not 0.0 <= self.perturb < math.inf:
            raise ValueError(f"perturb must be finite and at least 0, got {self.perturb}.")

    def apply_(
        self,
        parameters: Mapping[str, Tensor],
        fresh: Mapping[str, Tensor],
        *,
        optimizer: torch.optim.Optimizer | None,
        memory: Memory,
    ) -> None:
        """Do it.

        Args:
            parameters: θ by name, changed in place.
            fresh: θ_fresh by name, as `fresh_values` gives it; may hold more.
            optimizer: of the parameters; None: there is none.
            memory: what becomes of its state.

        Raises:
            ValueError: a parameter has no fresh value of its shape. Nothing is changed then.
        """
        _write_(parameters, self.values(parameters, fresh))
        _forget_(parameters, optimizer, memory)

    def values(self, parameters: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the parameters would be afterwards; see `apply_`."""
        for name, value in parameters.items():
            if name not in fresh or fresh[name].shape != value.shape:
                found = tuple(fresh[name].shape) if name in fresh else f"only {', '.join(fresh)}"
                raise ValueError(f"{name}, {tuple(value.shape)}, must have a fresh value of its shape: {found}.")
        return {
            name: value.detach().mul(self.shrink).add_(fresh[name].to(value), alpha=self.perturb)
            for name, value in parameters.items()
        }


@dataclass(frozen=True, kw_only=True)
class Electroshock:
    """θ_l ← (1 - s) θ_l + s ρ_l N(0, 1) std(θ_l), for each tensor l: a shock of size s.

    Source: ours; the nearest are weight noise and shrink-and-perturb. The noise has the size of the tensor's own
    values, so it needs no initialisation to be known. s = 0 does nothing, s = 1 leaves noise only; ρ is `noise`. For
    values of mean 0 a shock keeps their variance if ρ = sqrt((2 - s) / s), and shrinks it with ρ = 1. A tensor of equal
    values (a bias of zeros, a normalisation's weight at its start) has no deviation, and is only shrunk: give the
    weights.
    """

    size: float
    """s, in [0, 1]."""
    noise: float | Mapping[str, float] = 1.0
    """Of all tensors, or by name; at least 0."""

    def __post_init__(self) -> None:
        _check_share("the size of a shock", self.size)
        for value in self.noise.values() if isinstance(self.noise, Mapping) else (self.noise,):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"the noise of a shock must be finite and at least 0, got {value}.")

    def apply_(
        self,
        parameters: Mapping[str, Tensor],
        keyed: Keyed,
        *,
        optimizer: torch.optim.Optimizer | None,
        memory: Memory,
    ) -> None:
        """Do it.

        Args:
            parameters: θ by name, changed in place.
            keyed: a generator for each name.
            optimizer: of the parameters; None: there is none.
            memory: what becomes of its state.

        Raises:
            ValueError: a parameter has no ρ. Nothing is changed then.
        """
        _write_(parameters, self.values(parameters, keyed))
        _forget_(parameters, optimizer, memory)

    def values(self, parameters: Mapping[str, Tensor], keyed: Keyed) -> dict[str, Tensor]:
        """What the parameters would be afterwards; see `apply_`."""
        noise = {name: self._noise_of(name) for name in parameters}
        shocked = {}
        for name, parameter in parameters.items():
            value = parameter.detach()
            drawn = draw_normal(keyed, name, value)
            shocked[name] = value.mul(1 - self.size).add_(drawn.mul_(self.size * noise[name] * value.std(correction=0)))
        return shocked

    def _noise_of(self, name: str) -> float:
        if not isinstance(self.noise, Mapping):
            return self.noise
        if name not in self.noise:
            raise ValueError(f"{name} must have a noise of its own, as others have: {', '.join(self.noise)}.")
        return self.noise[name]


def _write_(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def _forget_(parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None, memory: Memory) -> None:
    if optimizer is not None:
        for parameter in parameters.values():
            forget_(optimizer, parameter, torch.ones_like(parameter, dtype=torch.bool), memory)


def _check_share(what: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{what} must lie in [0, 1], got {value}.")
