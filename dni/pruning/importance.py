"""How much does a network need a parameter, or a unit?

A score is larger for what is needed more. Scores of parameters have the shapes of the tensors, by name; scores of units
(channels, neurons, heads) are a vector for each layer, by name. Functions give what one microbatch or one update says;
`RunningScores` adds that up.

Letters: N samples, C channels, U units, w a parameter, g its gradient, h a layer's output, δ = dL/dh per sample.
A unit is C/U consecutive channels: one for channels and neurons, the width of a head for heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from dni.structure.hidden import Hidden
from dni.structure.keyed import Keyed, draw_uniform

__all__ = [
    "RunningScores",
    "score_dormancy",
    "score_magnitude",
    "score_movement",
    "score_random",
    "score_taylor",
    "score_unit_activity",
    "score_unit_norm",
    "score_unit_taylor",
    "sum_by_unit",
]


def score_magnitude(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w|, by name."""
    return {name: value.detach().abs() for name, value in parameters.items()}


def score_movement(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What one update says of which weights move away from 0: -w g, by name.

    Source: Sanh et al. 2020 (arXiv 2005.07683), S = -sum over updates of w g, which `RunningScores.totals` is. Differs:
    the learning rate, the same factor for all, is left out; masks are what is selected, not a threshold.

    Args:
        parameters: w by name, each with the averaged gradient of the update in `.grad`.

    Raises:
        ValueError: one of them has no gradient.
    """
    return {name: -value.detach() * _gradient(name, value) for name, value in parameters.items()}


def score_taylor(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What setting a parameter to 0 would do to the loss, squared, to first order: (w g)², by name.

    The score of a unit is the sum over what makes it, `sum_by_unit`.    Source: Molchanov et al. 2019 (arXiv
    1906.10771), the first-order score. The square is of the gradient that was given, so it depends on its batch size.

    Args:
        parameters: w by name, each with its averaged gradient in `.grad`.

    Raises:
        ValueError: one of them has no gradient.
    """
    return {name: (value.detach() * _gradient(name, value)).square() for name, value in parameters.items()}


def score_random(tensors: Mapping[str, Tensor], keyed: Keyed) -> dict[str, Tensor]:
    """Numbers in [0, 1] that know nothing of the values, by name: of parameters, or of units if given a vector each."""
    return {name: draw_uniform(keyed, name, value.detach()) for name, value in tensors.items()}


def score_unit_norm(hidden: Hidden, *, order: Literal[1, 2] = 2) -> Tensor:
    """The L1 or L2 norm of all weights that compute a unit, over all layers that do; biases and norms do not count.

    Args:
        hidden: the units.
        order: 1 or 2.

    Returns:
        (U,).

    Raises:
        ValueError: nothing here computes them.
    """
    weights = [own for _, own in hidden.sides("producer") if own.bound and own.tensor.dim() > 1]
    if not weights:
        raise ValueError(
            f"the norm of {hidden.num_units} units needs the weights that compute them, found only "
            f"{', '.join(hidden.tensors)}. Ask the stage that has their layer."
        )
    parts = [own.at.sum_by_unit(own.tensor.abs() ** order, num_units=hidden.num_units) for own in weights]
    return torch.stack(parts).sum(0) ** (1 / order)


def sum_by_unit(scores: Tensor, *, num_units: int) -> Tensor:
    """Add up the scores of the parameters that make each unit: (C, ...) to (U,).

    Raises:
        ValueError: U does not divide C.
    """
    return _grouped(scores.detach(), num_units, axis=0).flatten(1).sum(1)


def score_unit_activity(h: Tensor, *, num_units: int, axis: int = 1) -> Tensor:
    """How far each unit is from silent: |h| averaged over positions and the unit's channels, summed over samples.

    Args:
        h: after the nonlinearity, (N, C, positions...); or tokens (N, T, C) with `axis` -1.
        num_units: U.
        axis: of C; not 0.

    Returns:
        (U,), to be divided by the samples (`RunningScores.means`): E|h|.

    Raises:
        ValueError: U does not divide C.
    """
    return _by_sample_and_unit(h.detach().abs(), num_units, axis).flatten(2).mean(2).sum(0)


def score_unit_taylor(h: Tensor, gradient: Tensor, *, num_units: int, axis: int = 1) -> Tensor:
    """What silencing a unit would do to each sample's loss, to first order: |mean of h δ|, summed over samples.

    The mean is over positions and the unit's channels.    Source: Molchanov et al. 2017 (arXiv 1611.06440), the Taylor
    criterion. With gradients per sample it does not depend on the size of the microbatch.

    Args:
        h: as in `score_unit_activity`.
        gradient: δ, dL/dh of the loss summed over the microbatch, shaped like h.
        num_units: U.
        axis: of C; not 0.

    Returns:
        (U,), to be divided by the samples.

    Raises:
        ValueError: U does not divide C, or the shapes differ.
    """
    if h.shape != gradient.shape:
        raise ValueError(f"h and dL/dh must have one shape, got {tuple(h.shape)} and {tuple(gradient.shape)}.")
    return _by_sample_and_unit(h.detach() * gradient.detach(), num_units, axis).flatten(2).mean(2).abs().sum(0)


def score_dormancy(activity: Tensor) -> Tensor:
    """Activity for that of the layer: s_i = E|h_i| / mean over k of E|h_k|; a unit is τ-dormant if s_i <= τ.

    Source: Sokar et al. 2023 (ReDo, arXiv 2302.12902), definition of the dormancy score.

    Args:
        activity: E|h|, (U,), not negative.

    Returns:
        (U,); all 0 for a layer that is silent as a whole.
    """
    mean = activity.mean()
    return torch.where(mean > 0, activity / mean, torch.zeros_like(activity))


class RunningScores:
    """Adds up scores by name over microbatches or updates, in at least 32 bits."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._samples: dict[str, int] = {}

    def add(self, scores: Mapping[str, Tensor], *, num_samples: int) -> None:
        """Count scores that `num_samples` samples have, summed over them.

        Raises:
            ValueError: there are no samples, or the shape of a name has changed.
        """
        if num_samples < 1:
            raise ValueError(f"scores must be of at least 1 sample, got {num_samples}.")
        for name, value in scores.items():
            total = self._totals.get(name)
            if total is None:
                total = torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32))
            elif total.shape != value.shape:
                raise ValueError(
                    f"the scores of {name} must keep their shape, {tuple(total.shape)}, got {tuple(value.shape)}. "
                    "Begin anew after its structure has changed."
                )
            self._totals[name] = total.to(value.device) + value
            self._samples[name] = self._samples.get(name, 0) + num_samples

    def totals(self) -> dict[str, Tensor]:
        """The sums: movement."""
        return dict(self._totals)

    def means(self) -> dict[str, Tensor]:
        """Per sample: activity, Taylor of units."""
        return {name: total / self._samples[name] for name, total in self._totals.items()}

    def state_dict(self) -> dict[str, Any]:
        """Sums and samples by name."""
        return {"totals": dict(self._totals), "samples": dict(self._samples)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._totals = dict(state["totals"])
        self._samples = dict(state["samples"])


def _gradient(name: str, value: Tensor) -> Tensor:
    if value.grad is None:
        raise ValueError(
            f"{name} must have a gradient to be scored by it, found None. Score after the backward and before the "
            "gradients are dropped, and leave out what does not learn."
        )
    return value.grad.detach()


def _by_sample_and_unit(values: Tensor, num_units: int, axis: int) -> Tensor:
    """(N, U, ...)."""
    if values.dim() < 2 or axis % values.dim() == 0:
        raise ValueError(
            f"axis must be that of the channels of an h of (N, C, ...), got {axis} of {values.dim()} axes."
        )
    return _grouped(values.movedim(axis, 1), num_units, axis=1)


def _grouped(values: Tensor, num_units: int, axis: int) -> Tensor:
    """The axis of channels as two: units, and the channels of each."""
    channels = values.shape[axis]
    if num_units < 1 or channels % num_units:
        raise ValueError(
            f"the number of units must divide the channels, got {num_units} units for {channels} channels "
            f"of {tuple(values.shape)}."
        )
    shape = (*values.shape[:axis], num_units, channels // num_units, *values.shape[axis + 1 :])
    return values.reshape(shape)
