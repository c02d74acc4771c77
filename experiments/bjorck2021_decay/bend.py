"""How does the loss bend around the weights of a run, and how long should its next step be?

Whatever is called relative does not change if the weights before a normalisation are scaled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni import (
    NetworkLoss,
    Objective,
    ParameterPartition,
    Summary,
    SymmetricOperator,
    estimate_density,
    estimate_trace,
    filter_normalized,
    hessian_operator,
    loss_parts,
    newton_rates,
    optimizer_step,
    summarise,
)
from experiments.bjorck2021_decay.as_trained import as_trained
from experiments.bjorck2021_decay.config import INVARIANT, NONE
from experiments.records import read_records
from pipeline import generator

__all__ = ["CURVATURE", "LOOKED_AT", "Bend", "bend", "read_bends"]

CURVATURE = "curvature.jsonl"
LOOKED_AT = (NONE, "all", "first 25 %", "third 25 %", "last 50 %")
"""Windows whose runs are looked at; with decoupled decay."""

_LOSS = nn.CrossEntropyLoss()
_LANCZOS_STEPS = 12
_TRACE_DRAWS = 6
_RADIUS = 0.05
"""Of the ball of filter-normalised sharpness: each filter moves by so much of its norm."""
_ASCENT_STEPS = 5

Vectors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Bend:
    """What was found at one point of one run: a line of curvature.jsonl."""

    optimizer: str
    coupling: str
    """Empty if nothing decays."""
    window: str
    seed: int
    part: float
    """Of the run that is over."""
    test_accuracy: float
    """A fraction, at the end of the run."""
    values: dict[str, float]
    cpu_s: float
    """Of a core: for all points of the run, and their share of its training."""
    machine: dict[str, Any]


def read_bends(path: Path) -> list[Bend]:
    """What has been found so far, in the order in which it was; none if there is no file yet."""
    return read_records(Bend, path)


def bend(
    network: nn.Sequential, optimizer: Optimizer, x: Tensor, target: Tensor, *, batch_size: int
) -> dict[str, float]:
    """Measure at one point.

    Args:
        network: as it is then.
        optimizer: with its state and rate of then, of the network's parameters.
        x: samples, (N, D). The first `batch_size` are what the next step is taken by, the others give the loss.
        target: their labels.
        batch_size: of training.

    Returns:
        By name: `loss`; `norm`, geometric mean over the weights before a normalisation; `top` and `trace` of the
        Hessian; `relative top` and `relative trace` of the Hessian by the weights before a normalisation, each by its
        norm; `gradient by norm`, the root of the sum over these of (‖g‖ ‖W‖)²; `sharpness`, the most that the loss
        rises if each filter moves by a twentieth of its norm; `gradient rate`, eta* along the gradient; `step rate`,
        eta* along what the optimiser would subtract, 1 if that is just right; and `step rate/L` for each layer L, of
        all layers together.
    """
    still = as_trained(network)
    batch, x, target = (x[:batch_size], target[:batch_size]), x[batch_size:], target[batch_size:]
    point = {name: value.detach() for name, value in still.named_parameters()}
    loss = NetworkLoss(still, [(x, target)], _LOSS)
    gradient = loss.gradient(point)
    norms = {name: float(point[name].norm()) for name in INVARIANT}
    by_norm = math.sqrt(sum((float(gradient[name].norm()) * norm) ** 2 for name, norm in norms.items()))
    found = {
        "loss": loss(point),
        "norm": math.exp(sum(map(math.log, norms.values())) / len(norms)),
        "gradient by norm": by_norm,
        "sharpness": _sharpness(loss, point),
        **_spectra(still, x, target, norms),
        **_rates(still, point, gradient, x, target, "gradient rate"),
    }
    own = dict(network.named_parameters())
    subtracted = optimizer_step(optimizer, own, NetworkLoss(still, [batch], _LOSS).gradient(point))
    direction = {name: -moved for name, moved in subtracted.items()}
    found |= _rates(still, point, direction, x, target, "step rate")
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def _spectra(network: nn.Sequential, x: Tensor, target: Tensor, norms: Mapping[str, float]) -> dict[str, float]:
    whole = Objective(network, _LOSS, [(x, target)], dtype=torch.float32)
    some = Objective(network, _LOSS, [(x, target)], parameters=list(norms), dtype=torch.float32)
    scale = torch.cat([torch.full((some.shapes[name].numel(),), norm) for name, norm in norms.items()])
    hessian, relative = hessian_operator(whole), _scaled(hessian_operator(some), scale)
    return {
        "top": _top(hessian),
        "trace": estimate_trace(hessian, num_draws=_TRACE_DRAWS, keyed=_keyed).value,
        "relative top": _top(relative),
        "relative trace": estimate_trace(relative, num_draws=_TRACE_DRAWS, keyed=_keyed).value,
    }


def _top(operator: SymmetricOperator) -> float:
    """The largest eigenvalue, from below; after these steps of Lanczos it is near if it stands out."""
    return float(estimate_density(operator, num_draws=1, num_steps=_LANCZOS_STEPS, keyed=_keyed).points.max())


def _scaled(operator: SymmetricOperator, scale: Tensor) -> SymmetricOperator:
    """D A D, for D with this diagonal: A by coordinates in which each weight is measured by its norm."""
    return SymmetricOperator(
        size=operator.size,
        dtype=operator.dtype,
        device=operator.device,
        product=lambda vector: scale * operator(scale * vector),
    )


def _sharpness(loss: NetworkLoss, point: Vectors) -> float:
    """max of L(w + d) - L(w) over ‖d_f‖ ≤ ρ ‖w_f‖ for each filter f, from below, by ascent.

    Each step goes to the point of the ball that is farthest along the gradient (Frank and Wolfe 1956, with whole
    steps); of a convex loss none goes down.
    """
    start, moved = loss(point), dict(point)
    highest = start
    for _ in range(_ASCENT_STEPS):
        away = filter_normalized(loss.gradient(moved), point)
        moved = {name: value + _RADIUS * away[name] for name, value in point.items()}
        highest = max(highest, loss(moved))
    return highest - start


def _rates(
    network: nn.Sequential, point: Vectors, direction: Vectors, x: Tensor, target: Tensor, name: str
) -> dict[str, float]:
    """eta* along a direction: of all of it, and by layer."""
    partition = ParameterPartition.by_layer({own: value.shape for own, value in point.items()})
    summary = summarise(loss_parts(network, _LOSS, x, target), point, direction, partition)
    by_layer = newton_rates(summary).tolist()
    return {
        name: _along_all(summary),
        **{f"{name}/{own}": eta for own, eta in zip(summary.names, by_layer, strict=True)},
    }


def _along_all(summary: Summary) -> float:
    """S = 1: the sums over the subsets are the derivatives along the whole direction."""
    return float(summary.gradient.sum() / summary.hessian.sum())


def _keyed(name: str) -> torch.Generator:
    return generator(0, f"bend/{name}", 0)
