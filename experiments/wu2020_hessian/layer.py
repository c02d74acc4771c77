"""What does the Hessian of one layer's weight look like, and how near is it to a Kronecker product?

What is below the layer does not depend on its weight, so the loss is taken as a function of what the layer is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dni import (
    KroneckerFactors,
    Objective,
    SymmetricOperator,
    eigenpairs,
    estimate_decoupling,
    estimate_density,
    estimate_trace,
    gauss_newton_operator,
    hessian_operator,
    input_alignment,
    kronecker_factors,
    overlap_curve,
    rank_one_energy,
)
from pipeline import generator

__all__ = ["Look", "Numbers", "is_layer", "look"]

Numbers = list[float]

_TOLERANCE = 1e-3
"""Of |H v - λ v| beside λ."""
_NUM_DRAWS = 10
"""Products with random signs, for traces and cosines."""
_DENSITY_DRAWS, _DENSITY_STEPS = 3, 40


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found of one layer of one network. m rows and n columns of its weight, a kernel flattened."""

    layer: int
    """Among those with weights, from 0."""
    rows: int
    columns: int
    values: Numbers
    """The 2 m largest eigenvalues of the Hessian of the weight, downwards."""
    worst_residual: float
    """The largest |H v - λ v| / λ among them."""
    num_products: int
    trace: float
    trace_error: float
    """Standard error."""
    gauss_newton_cosine: float
    """Of Hessian and Gauss-Newton matrix."""
    gauss_newton_values: Numbers
    """The c largest eigenvalues of the Gauss-Newton matrix; c is the number of classes."""
    gauss_newton_overlap: float
    """Of the c top directions of both."""
    energies: Numbers
    """How near each eigenvector is to rank one, as a matrix: σ₁² / Σ σ²."""
    alignments: Numbers
    """|cos| of its leading input direction and E[x]."""
    kronecker_cosine: float
    """Of the Hessian and E[M] ⊗ E[x xᵀ]."""
    kronecker_cosine_error: float
    kronecker_error: float
    """‖H - K‖ / ‖H‖."""
    kronecker_overlap: Numbers
    """Of the top k directions of both, for k = 1, 2, ..."""
    output_values: Numbers
    """Eigenvalues of E[M], downwards."""
    input_values: Numbers
    """The ten largest eigenvalues of E[x xᵀ], as shares of its trace."""
    mean_share: float
    """|E[x]|² / E|x|²; of a convolution with its places taken one by one."""
    density_points: list[Numbers] = field(default_factory=list)
    """Of the spectral density, a list a draw; empty where it was not taken."""
    density_weights: list[Numbers] = field(default_factory=list)


def is_layer(module: nn.Module) -> bool:
    """Whether it has a weight that is one matrix."""
    return isinstance(module, nn.Linear | nn.Conv2d)


def look(
    network: nn.Sequential, place: int, x: Tensor, target: Tensor, *, classes: int, seed: int, density: bool
) -> tuple[Look, Tensor]:
    """Look at the layer at a place of a chain.

    Args:
        network: the whole chain.
        place: of the layer in it.
        x: samples, (N, ...).
        target: their labels, (N,).
        classes: c.
        seed: of the random vectors.
        density: whether to take the spectral density too.

    Returns:
        What was found, and the top 2 m eigenvectors, (P, 2 m).
    """
    with torch.no_grad():
        given = network[:place](x)
    weight: Tensor = network[place].weight.detach()  # type: ignore[union-attr,operator,assignment]
    above = nn.Sequential(*network[place:])
    loss = nn.CrossEntropyLoss()
    objective = Objective(above, loss, [(given, target)], parameters=["0.weight"], dtype=torch.float32)
    hessian, gauss_newton = hessian_operator(objective), gauss_newton_operator(objective)
    keyed = partial(_keyed, seed)
    top = eigenpairs(hessian, 2 * len(weight), generator=keyed("start"), tolerance=_TOLERANCE)
    few = eigenpairs(gauss_newton, classes, generator=keyed("start"), tolerance=_TOLERANCE)
    factors = kronecker_factors(objective, "0")
    product = factors.operator()
    near = estimate_decoupling(hessian, product, num_draws=_NUM_DRAWS, keyed=keyed)
    trace = estimate_trace(hessian, num_draws=_NUM_DRAWS, keyed=keyed)
    inputs = torch.linalg.eigvalsh(factors.input).flip(0)
    points, weights = _density(hessian, seed) if density else ([], [])
    found = Look(
        layer=sum(map(is_layer, network[:place])),
        rows=len(weight),
        columns=weight[0].numel(),
        values=_short(top.values),
        worst_residual=_short((top.residuals / top.values.abs())[None].max(1).values)[0],
        num_products=top.num_products,
        trace=_short([trace.value])[0],
        trace_error=_short([trace.standard_error])[0],
        gauss_newton_cosine=estimate_decoupling(hessian, gauss_newton, num_draws=2, keyed=keyed).cosine,
        gauss_newton_values=_short(few.values),
        gauss_newton_overlap=float(overlap_curve(top.vectors[:, :classes], few.vectors)[-1]),
        energies=_short(rank_one_energy(top.vectors, weight.shape)),
        alignments=_short(input_alignment(top.vectors, weight.shape, factors.mean_input)),
        kronecker_cosine=near.cosine,
        kronecker_cosine_error=near.cosine_error,
        kronecker_error=near.relative_error,
        kronecker_overlap=_short(overlap_curve(top.vectors, factors.eigenpairs(2 * len(weight)).vectors)),
        output_values=_short(torch.linalg.eigvalsh(factors.output).flip(0)),
        input_values=_short(inputs[:10] / inputs.sum()),
        mean_share=_mean_share(factors, network[place], given),
        density_points=points,
        density_weights=weights,
    )
    return found, top.vectors


def _keyed(seed: int, name: str) -> torch.Generator:
    return generator(seed, f"hessian of a layer/{name}", 0)


def _density(hessian: SymmetricOperator, seed: int) -> tuple[list[Numbers], list[Numbers]]:
    found = estimate_density(hessian, num_draws=_DENSITY_DRAWS, num_steps=_DENSITY_STEPS, keyed=partial(_keyed, seed))
    return [_short(row) for row in found.points], [_short(row) for row in found.weights]


def _mean_share(factors: KroneckerFactors, layer: nn.Module, given: Tensor) -> float:
    """The factor E[x xᵀ] is a sum over places, E[x] a mean over them."""
    with torch.no_grad():
        z = layer(given[:1])
    num_places = z[0].numel() // len(factors.output)
    return float(num_places * factors.mean_input.square().sum() / factors.input.trace())


def _short(values: Tensor | Sequence[float]) -> Numbers:
    """To five digits: what is written down need not be longer than it is exact."""
    return [float(f"{float(value):.5g}") for value in values]
