"""What does the Hessian of each layer look like: its largest eigenvalues, its trace, its spectrum, its two factors?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dni import (
    Eigenpairs,
    Objective,
    SpectralDensity,
    SymmetricOperator,
    eigenpairs,
    estimate_decoupling,
    estimate_density,
    estimate_trace,
    hessian_operator,
    kronecker_factors,
    overlap_curve,
    random_overlap,
    rank_one_energy,
)
from pipeline.probes.network import Network, Samples
from pipeline.probes.probe import OnProgress, finite_scalars, keyed_by
from pipeline.probes.settings import ProbeSettings
from pipeline.records.findings import Curves, Finding

__all__ = ["check_same_layers", "compare_hessians", "probe_hessian"]

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d)
_TOLERANCE = 1e-4
"""Relative, of eigenvalues: in float32 they are no more exact than 1e-6 of the largest."""
_LANCZOS_STEPS = 30
_GRID = 200
"""Points of a density."""


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One layer's loss and Hessian."""

    name: str
    stage: int
    objective: Objective
    operator: SymmetricOperator
    key: str
    weight: Tensor | None
    """Where the weight alone is looked at, and is one matrix."""


def probe_hessian(
    network: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress, /
) -> Iterator[Finding]:
    """For each layer: top eigenvalues, trace, spectral density, and how near its weight's Hessian is to two factors.

    Source: Wu et al. 2020 (arXiv 2010.04261); see `dni.hessians`. Of the loss per sample, in float32.

    Raises:
        ValueError: there is no such layer, or the loss is not smooth or not repeatable.
    """
    keyed = keyed_by(settings)
    for key in _keys(network, settings):
        layer = _layer(network, samples, key)
        told = partial(_told, on_progress, layer.name)
        top = _top(layer, settings, on_progress)
        density = estimate_density(
            layer.operator,
            num_draws=max(1, settings.draws // 3),
            num_steps=_LANCZOS_STEPS,
            keyed=keyed,
            progress=told("density of"),
        )
        trace = estimate_trace(layer.operator, num_draws=settings.draws, keyed=keyed, progress=told("trace of"))
        values = {"top_eigenvalue": float(top.values[0]), "lowest_eigenvalue": float(density.points.min())}
        values |= {"trace": trace.value, "trace_error": trace.standard_error}
        if layer.weight is not None:
            values["rank_one_energy"] = float(rank_one_energy(top.vectors, layer.weight.shape).mean())
            values |= _factor_quality(layer, settings, on_progress)
        yield from finite_scalars(
            ((f"hessian/{quantity}/{layer.name}", layer.stage, value) for quantity, value in values.items()),
            step=network.step,
        )
        yield _eigenvalues(layer, top, step=network.step)
        yield _density(layer, density, step=network.step)


def compare_hessians(
    network: Network, reference: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress, /
) -> Iterator[Finding]:
    """How much of the top eigenspace of each layer of one run lies in that of the same layer of another.

    Source: Wu et al. 2020 (arXiv 2010.04261), overlap of the top eigenspaces of a layer in different models.

    Raises:
        ValueError: the layers do not agree in names and shapes.
    """
    keys = _keys(network, settings)
    check_same_layers(network, reference, settings)
    for key in keys:
        other_key = reference.find_layers([network.name_of(key)])[0]
        layers = _layer(network, samples, key), _layer(reference, samples, other_key)
        frames = [_top(layer, settings, on_progress).vectors for layer in layers]
        k = min(frame.shape[1] for frame in frames)
        overlaps = overlap_curve(*(frame[:, :k] for frame in frames)).tolist()
        name, size = layers[0].name, layers[0].operator.size
        yield from finite_scalars(
            [(f"hessian/overlap_with_{reference.run}/{name}", layers[0].stage, overlaps[-1])], step=network.step
        )
        yield Curves(
            tag=f"hessian/overlap_curve_with_{reference.run}/{name}",
            step=network.step,
            stage=layers[0].stage,
            x=list(range(1, k + 1)),
            x_label="eigenvectors, from the largest eigenvalue",
            y_label=f"overlap with {reference.run}",
            curves={"found": overlaps, "of random spaces": [random_overlap(count, size) for count in range(1, k + 1)]},
        )


def check_same_layers(network: Network, reference: Network, settings: ProbeSettings) -> None:
    """Raise `ValueError` unless the layers that are looked at have the same names and shapes in both."""
    shapes = [
        {each.name_of(key): _shapes(each.layers[key]) for key in _keys(each, settings)} for each in (network, reference)
    ]
    if shapes[0] != shapes[1]:
        name = next(n for n in [*shapes[0], *shapes[1]] if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(
            "eigenspaces can be compared only between layers of the same names and shapes, but "
            f"{name} has {shapes[0].get(name, 'no place')} in one run and {shapes[1].get(name, 'no place')} in the "
            "reference. Name layers that both have (--layers), or leave hessian out of --what; representations of any "
            "widths can be compared."
        )


def _shapes(layer: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(own.shape) for own in layer.parameters()]


def _keys(network: Network, settings: ProbeSettings) -> list[str]:
    if settings.layers:
        return network.find_layers(settings.layers)
    found = [key for key, own in network.layers.items() if isinstance(own, _MATRICES) and own.weight.requires_grad]
    whole = [str(index) for index, own in enumerate(network.stages) if isinstance(own, _MATRICES)]
    if not found and not whole:
        raise ValueError("the network has no Linear and no Conv that learns. Name layers with --layers.")
    return sorted([*found, *whole], key=[key for key, _ in network.whole.named_modules()].index)


def _layer(network: Network, samples: Samples, key: str) -> _Layer:
    """The Hessian of the weight of a matrix, or of all that learns in another layer."""
    module = network.whole.get_submodule(key)
    is_matrix = isinstance(module, _MATRICES) and getattr(module, "groups", 1) == 1
    chosen = [f"{key}.weight"] if is_matrix else [k for k in network.learned if k.startswith(f"{key}.")]
    if not chosen:
        raise ValueError(f"{network.name_of(key)} has no parameters that learn. Name another layer.")
    objective = Objective(
        network.whole, network.mean_loss(samples).summed, samples, parameters=chosen, dtype=torch.float32
    )
    return _Layer(
        name=network.name_of(key),
        stage=network.stage_of(key),
        objective=objective,
        operator=hessian_operator(objective),
        key=key,
        weight=objective.values[chosen[0]] if is_matrix else None,
    )


def _factor_quality(layer: _Layer, settings: ProbeSettings, on_progress: OnProgress) -> dict[str, float]:
    """How near the Hessian is to a Kronecker product; nothing, with a note, of a layer that has no two factors."""
    told = partial(_told, on_progress, layer.name)
    try:
        factors = kronecker_factors(layer.objective, layer.key, progress=told("factors of"))
    except (ValueError, TypeError) as error:
        warnings.warn(f"no Kronecker factors of {layer.name}: {error}", stacklevel=2)
        return {}
    quality = estimate_decoupling(
        layer.operator,
        factors.operator(),
        num_draws=settings.draws,
        keyed=keyed_by(settings),
        progress=told("quality of"),
    )
    return {"kronecker_cosine": quality.cosine, "kronecker_relative_error": quality.relative_error}


def _told(on_progress: OnProgress, name: str, what: str) -> Callable[[int, int], object]:
    return lambda done, total: on_progress(f"{what} {name}", done, total)


def _top(layer: _Layer, settings: ProbeSettings, on_progress: OnProgress) -> Eigenpairs:
    k = min(settings.top, layer.operator.size - 1)
    return eigenpairs(
        layer.operator,
        k,
        generator=keyed_by(settings)("eigenpairs"),
        tolerance=_TOLERANCE,
        progress=lambda done, total: on_progress(f"eigenvalues of {layer.name}", done, 6 * k + 20),
    )


def _eigenvalues(layer: _Layer, top: Eigenpairs, *, step: int) -> Curves:
    values = top.values.tolist()
    return Curves(
        tag=f"hessian/eigenvalues/{layer.name}",
        step=step,
        stage=layer.stage,
        x=list(range(1, len(values) + 1)),
        x_label="rank, from the largest",
        y_label="eigenvalue",
        curves={"eigenvalue": values},
        y_scale="log" if min(values) > 0 else "linear",
    )


def _density(layer: _Layer, density: SpectralDensity, *, step: int) -> Curves:
    low, high = float(density.points.min()), float(density.points.max())
    span = (high - low) or abs(high) or 1.0
    grid = torch.linspace(low - 0.05 * span, high + 0.05 * span, _GRID, dtype=torch.float64)
    return Curves(
        tag=f"hessian/density/{layer.name}",
        step=step,
        stage=layer.stage,
        x=grid.tolist(),
        x_label="eigenvalue",
        y_label="share of eigenvalues, per unit",
        curves={"density": density.at(grid, width=0.01 * span).tolist()},
        y_scale="log",
    )
