"""How do hidden units come that a network did not have at first? In the middle of the run layer1 and layer2 double."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn
from torch.nn.functional import silu

from dni import At, CosineRamp, Event, GradMax, Grow, LinearRamp, LossRamp, Share, Widen
from dni.growth.alpha import Ramp
from experiments.changing_structure.arm import Arm, Family
from experiments.changing_structure.networks import convolutional, perceptron
from experiments.changing_structure.sites import Site

__all__ = ["GROWING", "GROWING_ARMS"]

_LARGE, _HALF = "large", "half"
_GROWN = ("layer1", "layer2")
_AMOUNT = Share(1.0)
_RAMPS: Mapping[str, Ramp] = {
    "linear 50": LinearRamp(num_steps=50),
    "linear 200": LinearRamp(num_steps=200),
    "linear 400": LinearRamp(num_steps=400),
    "cosine 200": CosineRamp(num_steps=200),
    "loss 200": LossRamp(num_steps=200),
}
"""The run has 418 steps after the middle, where samples are equal."""
_ALPHAS, _NOISES = (0.0, 0.1), (0.0, 0.05)


def _network(site: Site, *, grown: bool) -> nn.Sequential:
    """With SiLU, whose slope at 0 is not 0, as GradMax needs it."""
    half, large = site.sizes.grown[site.task.net]
    width, (channels, side) = large if grown else half, site.task.image
    widths = (width, width, large)
    if site.task.net == "mlp":
        return perceptron(channels * side**2, widths, nn.SiLU)
    return convolutional(channels, side, widths, nn.SiLU)


def _grow(site: Site, *, alpha: float, ramp: Ramp | None = None) -> tuple[Event]:
    return (Event(At(site.middle), Grow(layers=_GROWN, amount=_AMOUNT, alpha=alpha, ramp=ramp)),)


def _widen(site: Site, *, noise: float) -> tuple[Event]:
    return (Event(At(site.middle), Widen(layers=_GROWN, amount=_AMOUNT, noise=noise)),)


def _gradmax(site: Site) -> tuple[Event, ...]:
    """One layer after the other: layer2 reads layer1."""
    return tuple(
        Event(
            At(site.middle + later),
            GradMax(layers=(layer,), amount=_AMOUNT, activation=silu),
            name=f"gradmax {layer}",
        )
        for later, layer in enumerate(_GROWN)
    )


_FROM_HALF = partial(_network, grown=False)
GROWING_ARMS: Mapping[str, Arm] = {
    _HALF: Arm(title="half size for ever", network=_FROM_HALF),
    _LARGE: Arm(title="final size from the start", network=partial(_network, grown=True)),
    **{
        f"gate {name}": Arm(
            title=f"gate, {name} steps", network=_FROM_HALF, events=partial(_grow, alpha=1.0, ramp=ramp), rate_of=_LARGE
        )
        for name, ramp in _RAMPS.items()
    },
    **{
        f"alpha {alpha:g}": Arm(
            title=f"initial alpha of {alpha:g}", network=_FROM_HALF, events=partial(_grow, alpha=alpha), rate_of=_LARGE
        )
        for alpha in _ALPHAS
    },
    "alpha 1": Arm(title="random (alpha of 1)", network=_FROM_HALF, events=partial(_grow, alpha=1.0), rate_of=_LARGE),
    **{
        f"net2net {noise:g}": Arm(
            title=f"Net2Net, noise {noise:g}", network=_FROM_HALF, events=partial(_widen, noise=noise), rate_of=_LARGE
        )
        for noise in _NOISES
    },
    # Its layers must be in one stage with what reads them.
    "gradmax": Arm(title="GradMax", network=_FROM_HALF, events=_gradmax, rate_of=_LARGE, at=("layer4",)),
}
GROWING = Family(
    title="Grow",
    question="Does it matter how new units are phased in, and is growth worth it against the final size at once?",
    baseline=_HALF,
    controls=(_HALF, _LARGE),
    groups={
        "gate": tuple(f"gate {name}" for name in _RAMPS),
        "initial alpha": tuple(f"alpha {alpha:g}" for alpha in _ALPHAS),
        "random": ("alpha 1",),
        "Net2Net": tuple(f"net2net {noise:g}" for noise in _NOISES),
        "GradMax": ("gradmax",),
    },
    lengths=("samples", "flops"),
    dearest=_LARGE,
)
