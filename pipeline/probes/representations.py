"""What do the outputs of stages and layers hold: how many directions, how many silent units, which classes?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dni import (
    RSA,
    ClassContrast,
    Comparison,
    DormantUnits,
    LinearCKA,
    Ranks,
    RidgeProbes,
    carriers,
    map_members,
    mean_over_positions,
)
from pipeline.messages import Payload
from pipeline.probes.network import Network, Samples, joined
from pipeline.probes.probe import OnProgress, finite_scalars
from pipeline.probes.settings import ProbeSettings
from pipeline.records.findings import Curves, Finding, Matrix

__all__ = ["compare_representations", "outputs", "probe_representations", "representations_over_time"]

_WIDEST = 2048
"""Features that a covariance is made of; of what is wider the mean of each channel over its positions is taken."""
_TAU = 0.025
"""Sokar et al. 2023: a unit of a normalised activity of at most this is dormant."""


def probe_representations(
    network: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress, /
) -> Iterator[Finding]:
    """Effective and stable rank, dormant units, classes, and how alike the outputs are.

    Raises:
        ValueError: an output is not finite, or there are too few samples.
    """
    keys = network.find_layers(settings.layers)
    num_classes = _num_classes(samples)
    axes = {name: _channels(h) for name, h in outputs(network, samples[0][0], keys).items()}
    ranks, dormant, cka, rsa = Ranks(), DormantUnits(taus=(_TAU,), axes=axes), LinearCKA(), RSA()
    classes = None if num_classes is None else (RidgeProbes(num_classes), ClassContrast())
    for done, (x, target) in enumerate(samples):
        on_progress("representations", done, len(samples))
        features = outputs(network, x, keys)
        narrow = {name: _narrow(h) for name, h in features.items()}
        for measure in (dormant, cka, rsa):
            measure.update(features)
        for measure in (ranks, *(classes or ())):
            measure.update(narrow, target)
    found: dict[str, Mapping[str, float]] = {
        "effective_rank": {name: own.effective_rank for name, own in ranks.result().items()},
        "stable_rank": {name: own.stable_rank for name, own in ranks.result().items()},
        "dormant": {name: own.shares[_TAU] for name, own in dormant.result().items()},
    }
    if classes is not None:
        found["probe_accuracy"] = {name: own.accuracy for name, own in classes[0].result().items()}
        found["class_contrast"] = classes[1].result()
    for quantity, by_name in found.items():
        yield from finite_scalars(
            ((f"representations/{quantity}{_end(name)}", _stage(name), value) for name, value in by_name.items()),
            step=network.step,
        )
    for quantity, comparison in (("cka", cka.result()), ("rsa", rsa.result())):
        if len(comparison.rows) > 1:
            yield _matrix(f"representations/{quantity}", comparison, step=network.step)
    on_progress("representations", len(samples), len(samples))


def compare_representations(
    network: Network, reference: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress, /
) -> Iterator[Finding]:
    """How alike each output of one run is to each of another, on the same samples. Widths need not agree.

    Rows of a matrix are outputs of the run, columns of its reference.

    Raises:
        ValueError: an output is not finite, or there are too few samples.
    """
    for quantity, comparison in _compared(network, reference, samples, settings, on_progress).items():
        yield _matrix(f"representations/{quantity}_with_{reference.run}", comparison, step=network.step)


def representations_over_time(
    networks: Iterable[Network], last: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress, /
) -> Iterator[Finding]:
    """How alike each output is to what it is at the last checkpoint.

    Args:
        networks: of the checkpoints before it, in order.
        last: the last one.
        samples: what all of them are shown.
        settings: which layers.
        on_progress: is told.
    """
    steps: list[int] = []
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for network in networks:
        steps.append(network.step)
        for quantity, comparison in _compared(network, last, samples, settings, on_progress).items():
            for name in comparison.rows:
                found[quantity][name].append(comparison.of(name, name))
    for quantity, curves in found.items():
        yield Curves(
            tag=f"representations/{quantity}_with_last_over_time",
            step=last.step,
            stage=None,
            x=[*steps, last.step],
            x_label="step",
            y_label=f"{quantity.upper()} with step {last.step:,}",
            curves={name: [*values, 1.0] for name, values in curves.items()},
        )


def outputs(network: Network, x: Payload, keys: Iterable[str] = ()) -> dict[str, Tensor]:
    """What each stage puts out, as `stage 0`, and each of these layers, as `stage 0: fc1`.

    Of several members it is the first one of floating point.

    Raises:
        ValueError: a layer is not called, or puts out no floating-point tensor.
    """
    found: dict[str, Tensor] = {}
    wanted = {f"stage {index}": own for index, own in enumerate(network.stages)}
    wanted |= {network.label(key): network.layers[key] for key in keys}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in wanted.items():
            hooks.callback(module.register_forward_hook(partial(_take, found, name)).remove)
        network.whole(map_members(Tensor.clone, x))  # a layer may work in place
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(
            "each output must be a tensor of floating point, or a tuple with one, but there is none of "
            f"{', '.join(missing)}, which may not be called at all. Leave it out of --layers."
        )
    return {name: found[name] for name in wanted}


def _take(found: dict[str, Tensor], name: str, module: nn.Module, args: Any, h: Payload) -> None:
    if isinstance(h, Tensor | tuple) and (members := carriers(h)):
        found[name] = members[0].detach().clone()


def _compared(
    network: Network, other: Network, samples: Samples, settings: ProbeSettings, on_progress: OnProgress
) -> dict[str, Comparison]:
    cka, rsa = LinearCKA(), RSA()
    for done, (x, _) in enumerate(samples):
        on_progress(f"representations beside step {other.step}", done, len(samples))
        own = outputs(network, x, network.find_layers(settings.layers))
        others = outputs(other, x, other.find_layers(settings.layers))
        for measure in (cka, rsa):
            measure.update(own, against=others)
    on_progress(f"representations beside step {other.step}", len(samples), len(samples))
    return {"cka": cka.result(), "rsa": rsa.result()}


def _matrix(tag: str, comparison: Comparison, *, step: int) -> Matrix:
    return Matrix(
        tag=tag,
        step=step,
        stage=None,
        rows=comparison.rows,
        columns=comparison.columns,
        values=comparison.values.tolist(),
    )


def _narrow(h: Tensor) -> Tensor:
    """(N, F) of few enough features for a covariance, where that can be had."""
    return mean_over_positions(h, axis=_channels(h)) if h[0].numel() > _WIDEST else h


def _channels(h: Tensor) -> int:
    """The axis of the units: of tokens, (N, T, C), the last one."""
    return 2 if h.dim() == 3 else 1


def _num_classes(samples: Samples) -> int | None:
    """None where the targets are no labels of samples."""
    target = joined(samples)[1]
    if target is None or target.dim() != 1 or target.is_floating_point() or int(target.min()) < 0:
        return None
    return max(2, int(target.max()) + 1)


def _stage(name: str) -> int:
    return int(name.removeprefix("stage ").partition(":")[0])


def _end(name: str) -> str:
    """Of a tag: nothing for a stage's output, which the finding's stage says."""
    layer = name.partition(": ")[2]
    return f"/{layer}" if layer else ""
