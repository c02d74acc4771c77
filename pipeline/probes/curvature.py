"""How does the loss curve along a direction, tensor by tensor, layer by layer and stage by stage, across all stages?

The stages of a run stand in one process here, so the loss is a function of all of them, and what a step of one stage
does to the curvature that another one meets (the entries of the Hessian between stages) is seen.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from dni import (
    NoRatesError,
    ParameterPartition,
    Summary,
    cubic_rates,
    diagonal_rates,
    is_chain,
    loss_parts,
    newton_rates,
    summarise,
    summarise_chain,
)
from pipeline.probes.network import Network, Samples, joined
from pipeline.probes.probe import OnProgress, finite_scalars
from pipeline.probes.settings import ProbeSettings
from pipeline.records.findings import Curves, Finding, Matrix, Scalar

__all__ = ["probe_curvature", "rates_over_time"]

_RULES: Mapping[str, Callable[[Summary], Tensor]] = {
    "newton": newton_rates,
    "diagonal": diagonal_rates,
    "cubic": cubic_rates,
}


def probe_curvature(
    network: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress, /
) -> Iterator[Finding]:
    """Rates, gradient, curvature and interactions of the subsets of three partitions, along one direction.

    Source: Wolinski 2023 (arXiv 2312.03885); see `dni.curvature`.

    Raises:
        ValueError: the loss is no mean and no sum, a derivative is not finite, or the direction is 0 throughout.
    """
    step, partitions = network.step, _partitions(network)
    true = network.true_loss(samples)
    direction = _direction(network, samples, settings)
    yield from finite_scalars({"curvature/loss": true(network.learned)}, step=step)
    for done, (kind, partition) in enumerate(partitions.items()):
        on_progress(f"curvature by {kind}", done, len(partitions))
        moving = _moving(partition, direction)
        summary = _summary(network, samples, settings, direction, partition).of(moving)
        places = [_place(network, partition, index) for index in moving]
        yield from _numbers(summary, kind, places, step=step)
        yield from _rates(summary, kind, places, step=step)
        labels = [label for _, _, label in places]
        yield Matrix(
            tag=f"curvature/interaction_by_{kind}",
            step=step,
            stage=None,
            rows=labels,
            columns=labels,
            values=_normalised(summary.hessian).tolist(),
        )
        if kind == "tensor":
            stages = torch.tensor([stage for stage, _, _ in places])
            between = {"curvature/coupling_between_stages": _coupling(summary.hessian, stages)}
            along = {"curvature/newton_rate": float(summary.gradient.sum() / summary.hessian.sum())}
            yield from finite_scalars(between | along, step=step)
    on_progress("curvature", len(partitions), len(partitions))


def rates_over_time(findings: Iterable[Finding], /) -> Iterator[Curves]:
    """The rates of each partition by each rule, over the checkpoints, from what was found at each."""
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for finding in findings:
        if isinstance(finding, Scalar) and "_rate_by_" in finding.tag:
            family, quantity, *name = finding.tag.split("/", 2)
            label = f"stage {finding.stage}: {name[0]}" if name else f"stage {finding.stage}"
            found[f"{family}/{quantity}"][label][finding.step] = finding.value
    for tag, rates in found.items():
        steps = sorted({step for own in rates.values() for step in own})
        values = [value for own in rates.values() for value in own.values()]
        if len(steps) > 1:
            yield Curves(
                tag=f"{tag}_over_time",
                step=steps[-1],
                stage=None,
                x=steps,
                x_label="step",
                y_label="rate",
                curves={name: [own.get(step, math.nan) for step in steps] for name, own in rates.items()},
                y_scale="log" if min(values) > 0 else "symlog",
            )


def _partitions(network: Network) -> dict[str, ParameterPartition]:
    shapes = {key: tuple(own.shape) for key, own in network.learned.items()}
    stages = {
        str(index): [key for key in shapes if network.stage_of(key) == index] for index in range(len(network.stages))
    }
    return {
        "tensor": ParameterPartition.by_tensor(shapes),
        "layer": ParameterPartition.by_layer(shapes),
        "stage": ParameterPartition.by_name(shapes, {name: keys for name, keys in stages.items() if keys}),
    }


def _direction(network: Network, samples: Samples, settings: ProbeSettings) -> dict[str, Tensor]:
    field = network.used_gradient(samples) if settings.direction == "used" else network.true_loss(samples).gradient
    return network.masked(dict(field(network.learned)))


def _moving(partition: ParameterPartition, direction: Mapping[str, Tensor]) -> list[int]:
    still = partition.still(direction)
    moving = [index for index in range(partition.num_subsets) if index not in still]
    if not moving:
        raise ValueError("the direction is 0 throughout: there is no gradient to look along. Look at other samples.")
    return moving


def _summary(
    network: Network,
    samples: Samples,
    settings: ProbeSettings,
    direction: Mapping[str, Tensor],
    partition: ParameterPartition,
) -> Summary:
    x, target = joined(samples)
    loss = network.mean_loss(samples)
    if isinstance(x, Tensor) and is_chain(network.whole, x):
        return summarise_chain(network.whole, loss, x, target, direction, partition, samples_at_once=settings.batch)
    parts = loss_parts(network.whole, loss, x, target, samples_at_once=settings.batch)
    return summarise(parts, network.learned, direction, partition)


def _place(network: Network, partition: ParameterPartition, index: int) -> tuple[int, str, str]:
    """The stage of a subset, the end of its tags, and its name in a picture."""
    key = partition.names[index]
    if key.isdecimal():
        return int(key), "", f"stage {key}"
    if "." not in key:  # the parameters of a stage that is one module
        return int(key), "/" + network.name_of(f"{key}."), network.label(f"{key}.")
    return network.stage_of(key), "/" + network.name_of(key), network.label(key)


def _numbers(summary: Summary, kind: str, places: list[tuple[int, str, str]], *, step: int) -> Iterator[Scalar]:
    for name, values in (("gradient", summary.gradient), ("hessian", summary.hessian.diagonal())):
        yield from finite_scalars(
            (
                (f"curvature/{name}_by_{kind}{end}", stage, value)
                for (stage, end, _), value in zip(places, values.tolist(), strict=True)
            ),
            step=step,
        )


def _rates(summary: Summary, kind: str, places: list[tuple[int, str, str]], *, step: int) -> Iterator[Scalar]:
    for name, rule in _RULES.items():
        try:
            rates = rule(summary)
        except NoRatesError as error:
            warnings.warn(f"no {name} rates by {kind} at step {step}: {error}", stacklevel=2)
            continue
        yield from finite_scalars(
            (
                (f"curvature/{name}_rate_by_{kind}{end}", stage, rate)
                for (stage, end, _), rate in zip(places, rates.tolist(), strict=True)
            ),
            step=step,
        )


def _normalised(hessian: Tensor) -> Tensor:
    """|H_st| / sqrt |H_ss H_tt|; 0 where a subset has no curvature."""
    size = hessian.diagonal().abs().sqrt()
    scale = size.outer(size)
    return torch.where(scale > 0, hessian.abs() / scale, torch.zeros_like(scale))


def _coupling(hessian: Tensor, stages: Tensor) -> float:
    """Of what lies off the diagonal, the share that lies between stages; nan if there is nothing."""
    off = hessian.abs() * ~torch.eye(len(hessian), dtype=torch.bool)
    return float((off * (stages[:, None] != stages[None, :])).sum() / off.sum())
