"""What does the loss look like around a checkpoint: along what the stages learn from, the truth, and by chance?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dni import Implied, NetworkLoss, filter_normalized, random_direction, scaled_to, slice_line, slice_plane
from pipeline.probes.network import Network, Samples
from pipeline.probes.probe import OnProgress, keyed_by
from pipeline.probes.settings import ProbeSettings
from pipeline.records.findings import Curves, Finding, Surface

__all__ = ["probe_landscape"]

_PARALLEL = 0.999
"""Cosine from which two directions span no plane."""
_NODES = 2
"""Of the line integrals from one point to the next."""


def probe_landscape(
    network: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress, /
) -> Iterator[Finding]:
    """Lines along three directions, and a plane through two of them: the true loss, and the one that the used gradient
    implies.

    All directions have the same length, a share of the norm of the weights, so that lines can be compared; steps
    downhill lie to the right.
    Source: Li et al. 2018 (arXiv 1712.09913), filter normalisation; Czarnecki et al. 2017 (arXiv 1703.00522), implied
    loss. See `dni.landscape`.

    Raises:
        ValueError: the loss is no mean and no sum, or a gradient is not finite.
    """
    point, true, used = network.learned, network.true_loss(samples), network.used_gradient(samples)
    norm = math.sqrt(sum(float(own.double().square().sum()) for own in point.values()))
    length = settings.reach * (norm or 1.0)
    directions = _directions(network, {"used": used(point), "true": true.gradient(point)}, length, settings)
    start = true(point)
    steps = torch.linspace(-1.0, 1.0, settings.points).tolist()
    for name, direction in directions.items():

        def told(done: int, total: int, name: str = name) -> bool:
            on_progress(f"line along {name}", done, total)
            return True

        losses: dict[str, NetworkLoss | Implied] = {
            "true loss": true,
            "implied by the used gradient": Implied(field=used, num_nodes=_NODES),
        }
        values = slice_line(losses, point, direction, steps=steps, progress=told).values
        implied = values["implied by the used gradient"] + start
        yield Curves(
            tag=f"landscape/along_{name}",
            step=network.step,
            stage=None,
            x=_in_percent(steps, settings),
            x_label=f"step along {_WORDS[name]}, in % of the norm of the weights",
            y_label="loss",
            curves={"true loss": values["true loss"].tolist(), "implied by the used gradient": implied.tolist()},
        )
    yield _plane(network, samples, directions, settings, on_progress)


_WORDS = {"used": "the used gradient", "true": "the true gradient", "random": "a random direction"}


def _directions(
    network: Network, gradients: Mapping[str, Mapping[str, Tensor]], length: float, settings: ProbeSettings
) -> dict[str, dict[str, Tensor]]:
    """Downhill along each gradient, and at random; a gradient that is 0 gives no direction."""
    found = {name: network.masked({key: -own for key, own in given.items()}) for name, given in gradients.items()}
    random = filter_normalized(random_direction(network.learned, keyed_by(settings)), network.learned)
    found["random"] = network.masked(random)
    return {
        name: scaled_to(own, length) for name, own in found.items() if any(bool(part.any()) for part in own.values())
    }


def _plane(
    network: Network,
    samples: Samples,
    directions: Mapping[str, Mapping[str, Tensor]],
    settings: ProbeSettings,
    on_progress: OnProgress,
) -> Surface:
    along, *_ = directions
    across, second = _across(directions)

    def told(done: int, total: int) -> bool:
        on_progress("plane", done, total)
        return True

    steps = torch.linspace(-1.0, 1.0, settings.points // 2 + 1).tolist()
    plane = slice_plane(
        {"loss": network.true_loss(samples)},
        network.learned,
        (second, directions[along]),
        steps=(steps, steps),
        progress=told,
    )
    return Surface(
        tag="landscape/plane",
        step=network.step,
        stage=None,
        x=_in_percent(steps, settings),
        y=_in_percent(steps, settings),
        x_label=f"step along {_WORDS[along]}, in % of the norm of the weights",
        y_label=f"along {across}, in %",
        values=plane.values["loss"].tolist(),
    )


def _across(directions: Mapping[str, Mapping[str, Tensor]]) -> tuple[str, Mapping[str, Tensor]]:
    """The other direction of the plane: what the truth has beside the used gradient, or, if that is nothing, chance."""
    if {"used", "true"} <= directions.keys():
        used, true = directions["used"], directions["true"]
        share = _dot(used, true) / _dot(used, used)
        if abs(share) < _PARALLEL:
            rest = {key: own - share * used[key] for key, own in true.items()}
            return "what the true gradient has beside it", scaled_to(rest, math.sqrt(_dot(used, used)))
    return "a random direction", directions["random"]


def _dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(float((own.double() * b[key].double()).sum()) for key, own in a.items())


def _in_percent(steps: Sequence[float], settings: ProbeSettings) -> list[float]:
    return [100.0 * settings.reach * step for step in steps]
