"""How does a sparse network change its connections while it trains?

A rule plans, and changes nothing. Weights that come are to begin at 0, with optimiser slots that begin anew.

Letters: w the weights, n_on the numbers of a tensor that are kept, t a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dni.measures.active import Masks
from dni.pruning.rewiring import Rewiring, TensorRewiring
from dni.pruning.selection import lowest
from dni.structure.keyed import Keyed, draw_uniform

__all__ = ["SET", "DenseSparseDense", "GradualMagnitude", "RigL", "SparseTraining"]


class SparseTraining(Protocol):
    """A rule. When it is asked is its user's to say."""

    def plan(self, parameters: Mapping[str, Tensor], kept: Masks, *, step: int, keyed: Keyed) -> Rewiring:
        """What goes and what comes, from what is there; changes nothing.

        Args:
            parameters: by name, those of `kept` among them; with dense gradients in `.grad` for a rule that grows by
                them: before gradients are masked, or of a backward of its own.
            kept: the masks, bool by name.
            step: of the event.
            keyed: a generator for each name.
        """


@dataclass(frozen=True, kw_only=True)
class SET:
    """Drop the smallest positive and the smallest negative weights, grow as many at random.

    floor(ζ n) of the n positive ones, likewise of the negative ones; then as many at random places that are free, those
    that have just been dropped among them.    Source: Mocanu et al. 2018 (arXiv 1707.04780), after each epoch, ζ = 0.3.
    Differs: a kept weight of exactly 0 counts as positive; a place that is dropped and drawn again stays as it is.
    """

    share: float = 0.3
    """ζ, in [0, 1)."""

    def __post_init__(self) -> None:
        _check_share(self.share)

    def plan(self, parameters: Mapping[str, Tensor], kept: Masks, *, step: int, keyed: Keyed) -> Rewiring:
        changes = {}
        for name, on in kept.items():
            weight, mask = _flat(name, parameters, on)
            positive, negative = mask & (weight >= 0), mask & (weight < 0)
            dropped = torch.zeros_like(mask)
            for among in (positive, negative):
                dropped |= _lowest(weight.abs(), among, int(self.share * _count(among)))
            drawn = draw_uniform(keyed, name, weight.double())
            changes[name] = _net(mask, dropped, growth=drawn)
        return Rewiring(rule=repr(self), step=step, tensors=changes)


@dataclass(frozen=True, kw_only=True)
class RigL:
    """Drop the smallest weights, grow where the gradient is largest.

    floor(f_t n_on) of each tensor, f_t = α/2 (1 + cos(π t / T_end)); grown is where |dL/dw| is largest of all that is
    free then.    Source: Evci et al. 2020 (arXiv 1911.11134), algorithm 1 and its code, every 100 steps until 75 % of
    training. As in the code, a connection that is dropped and chosen again stays as it is, so the plan names neither.
    Differs: ties go to the first place, where the code adds noise.
    """

    until: int
    """T_end, in steps; nothing changes from there on."""
    share: float = 0.3
    """At step 0, in [0, 1)."""

    def __post_init__(self) -> None:
        _check_share(self.share)
        if self.until < 1:
            raise ValueError(f"rewiring must go on for at least 1 step, got until={self.until}.")

    def share_at(self, step: int) -> float:
        """f_t."""
        return self.share / 2 * (1 + math.cos(math.pi * step / self.until)) if step < self.until else 0.0

    def plan(self, parameters: Mapping[str, Tensor], kept: Masks, *, step: int, keyed: Keyed) -> Rewiring:
        changes = {}
        for name, on in kept.items():
            weight, mask = _flat(name, parameters, on)
            count = int(self.share_at(step) * _count(mask))
            dropped = _lowest(weight.abs(), mask, count)
            changes[name] = _net(mask, dropped, growth=_dense_gradient(name, parameters[name], mask).abs())
        return Rewiring(rule=repr(self), step=step, tensors=changes)


@dataclass(frozen=True, kw_only=True)
class GradualMagnitude:
    """Drop the smallest weights little by little, and grow none.

    The share that is pruned is s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))³ of each tensor, s_i before t_0
    and s_f from t_1 on.    Source: Zhu & Gupta 2017 (arXiv 1710.01878), eq. 1, at any steps in between.
    """

    start: int
    """t_0."""
    stop: int
    """t_1."""
    final: float
    """s_f, in [0, 1)."""
    initial: float = 0.0
    """s_i, at most s_f."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"pruning must start at 0 or later and stop after that, got {self.start} to {self.stop}.")
        if not 0.0 <= self.initial <= self.final < 1.0:
            raise ValueError(
                f"what is pruned must grow within [0, 1), got {self.initial} to {self.final}; 1 leaves nothing."
            )

    def share_at(self, step: int) -> float:
        """s_t."""
        progress = min(1.0, max(0.0, (step - self.start) / (self.stop - self.start)))
        return self.final + (self.initial - self.final) * (1 - progress) ** 3

    def plan(self, parameters: Mapping[str, Tensor], kept: Masks, *, step: int, keyed: Keyed) -> Rewiring:
        changes = {}
        for name, on in kept.items():
            weight, mask = _flat(name, parameters, on)
            changes[name] = _pruned_to(name, self.share_at(step), weight, mask)
        return Rewiring(rule=repr(self), step=step, tensors=changes)


@dataclass(frozen=True, kw_only=True)
class DenseSparseDense:
    """Train dense; prune the smallest and train on; let all of them come back from 0, at a lower rate.

    Source: Han et al. 2017 (DSD, arXiv 1607.04381): 25 to 50 % of each layer, then a tenth of the rate.
    """

    sparse_from: int
    """First step of the sparse phase."""
    dense_from: int
    """First step of the last phase."""
    share: float = 0.3
    """Pruned of each tensor, in [0, 1)."""
    rate_factor: float = 0.1
    """Of the learning rate in the last phase."""

    def __post_init__(self) -> None:
        _check_share(self.share)
        if not 0 <= self.sparse_from < self.dense_from:
            raise ValueError(
                f"the phases must follow one another, got sparse from {self.sparse_from}, dense from {self.dense_from}."
            )
        if not 0.0 < self.rate_factor < math.inf:
            raise ValueError(f"the factor of the learning rate must be positive, got {self.rate_factor}.")

    def rate(self, step: int) -> float:
        """Factor of the learning rate at a step: a `Schedule`."""
        return self.rate_factor if step >= self.dense_from else 1.0

    def plan(self, parameters: Mapping[str, Tensor], kept: Masks, *, step: int, keyed: Keyed) -> Rewiring:
        changes = {}
        for name, on in kept.items():
            weight, mask = _flat(name, parameters, on)
            if step >= self.dense_from:
                changes[name] = TensorRewiring(dropped=_places(mask & ~mask), grown=_places(~mask))
            else:
                changes[name] = _pruned_to(name, self.share if step >= self.sparse_from else 0.0, weight, mask)
        return Rewiring(rule=repr(self), step=step, tensors=changes)


def _check_share(share: float) -> None:
    if not 0.0 <= share < 1.0:
        raise ValueError(f"the share of weights to drop must lie in [0, 1), got {share}; 1 leaves nothing of a layer.")


def _flat(name: str, parameters: Mapping[str, Tensor], on: Tensor) -> tuple[Tensor, Tensor]:
    if name not in parameters or parameters[name].shape != on.shape:
        found = tuple(parameters[name].shape) if name in parameters else f"only {', '.join(parameters)}"
        raise ValueError(
            f"the mask of {name}, {tuple(on.shape)}, must have a parameter of its name and shape: {found}."
        )
    _check_finite("weights", name, parameters[name].detach())
    return parameters[name].detach().flatten(), on.flatten()


def _dense_gradient(name: str, parameter: Tensor, mask: Tensor) -> Tensor:
    if parameter.grad is None:
        raise ValueError(f"{name} must have a gradient to grow by, found None. Plan after the backward.")
    gradient = parameter.grad.detach().flatten()
    _check_finite("gradient", name, gradient)
    seen = gradient != 0
    if bool((~mask).any()) and not bool((seen & ~mask).any()) and bool((seen & mask).any()):
        raise ValueError(
            f"the gradient of {name} must be dense to grow by, but it is 0 wherever the tensor is pruned. Plan before "
            "the gradients are masked."
        )
    return gradient


def _check_finite(what: str, name: str, values: Tensor) -> None:
    if values.numel() and not all(bool(torch.isfinite(end)) for end in values.aminmax()):
        raise ValueError(f"the {what} of {name} must be finite to be ranked, found a number that is not.")


def _lowest(scores: Tensor, among: Tensor, count: int) -> Tensor:
    """Which are the `count` lowest of those in a set, as bool; of equals the first. Of few, without the rest."""
    if 4 * _count(among) < among.numel():
        places = _places(among)
        return torch.zeros_like(among).index_fill_(0, places[lowest(scores[places], count)], True)
    return lowest(scores.masked_fill(~among, math.inf), count)


def _net(mask: Tensor, dropped: Tensor, *, growth: Tensor) -> TensorRewiring:
    """Grow as many as are dropped where `growth` is highest of all that is free then; name only what changes."""
    rest = mask & ~dropped
    grown = _lowest(-growth, ~rest, _count(dropped))
    return TensorRewiring(dropped=_places(dropped & ~grown), grown=_places(grown & ~mask))


def _pruned_to(name: str, share: float, weight: Tensor, mask: Tensor) -> TensorRewiring:
    """Drop the smallest until round(share n) of the n numbers are pruned; nothing if there are as many already."""
    keep = mask.numel() - round(share * mask.numel())
    if keep < 1:
        raise ValueError(
            f"at least 1 of the {mask.numel()} numbers of {name} must stay, but pruning {share:.3g} of it leaves none. "
            "Lower the share, or leave it out."
        )
    dropped = _lowest(weight.abs(), mask, max(0, _count(mask) - keep))
    return TensorRewiring(dropped=_places(dropped), grown=_places(mask & ~mask))


def _count(chosen: Tensor) -> int:
    """As `sum`, which makes 64-bit numbers of a mask first."""
    return int(torch.count_nonzero(chosen))


def _places(chosen: Tensor) -> Tensor:
    return chosen.nonzero().flatten()
