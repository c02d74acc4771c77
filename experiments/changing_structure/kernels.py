"""How wide are kernels, who says so, and do they become wider while the network trains?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from dni import At, ContinuousConv, Event, ExtendKernel, GaussianMask, KernelNetwork, WidenKernel
from experiments.changing_structure.arm import Arm, Family
from experiments.changing_structure.networks import with_kernels
from experiments.changing_structure.sites import Site, Task

__all__ = ["KERNELS", "KERNEL_ARMS"]

_LAYERS = ("layer1", "layer2")
_CUT = ("layer2", "layer3")
_NETWORK = KernelNetwork(hidden=16, omega=10.0)
_MASK = GaussianMask(width=0.5, crop_below=0.0)
_BASE, _CONTINUOUS = "fixed 3", "continuous mask 7"


def _fixed(before: int, after: int, *, size: int) -> nn.Module:
    return nn.Conv2d(before, after, size, padding=size // 2)


def _continuous(before: int, after: int, *, size: int, mask: GaussianMask | None) -> nn.Module:
    return ContinuousConv(before, after, size, network=_NETWORK, mask=mask)


def _network(site: Site, *, kernel: Callable[[int, int], nn.Module]) -> nn.Sequential:
    channels, side = site.task.image
    return with_kernels(channels, side, site.sizes.kernel_widths, kernel)


def _widen(site: Site) -> tuple[Event]:
    return (Event(At(site.middle), WidenKernel(layers=_LAYERS)),)


def _extend(site: Site) -> tuple[Event]:
    return (Event(At(site.middle), ExtendKernel(layers=_LAYERS, size=7)),)


def _of(kernel: Callable[[int, int], nn.Module]) -> Callable[[Site], nn.Sequential]:
    return partial(_network, kernel=kernel)


KERNEL_ARMS: Mapping[str, Arm] = {
    **{
        f"fixed {size}": Arm(
            title=f"fixed, {size} x {size}",
            network=_of(partial(_fixed, size=size)),
            rate_of="" if f"fixed {size}" == _BASE else _BASE,
            at=_CUT,
        )
        for size in (3, 5, 7)
    },
    "widened": Arm(
        title="3 x 3, from the middle on 5 x 5",
        network=_of(partial(_fixed, size=3)),
        events=_widen,
        rate_of=_BASE,
        at=_CUT,
    ),
    _CONTINUOUS: Arm(
        title="continuous with a mask, 7 x 7 taps",
        network=_of(partial(_continuous, size=7, mask=_MASK)),
        at=_CUT,
    ),
    "continuous 7": Arm(
        title="continuous, 7 x 7 taps",
        network=_of(partial(_continuous, size=7, mask=None)),
        rate_of=_CONTINUOUS,
        at=_CUT,
    ),
    "extended": Arm(
        title="continuous with a mask, 5 x 5, from the middle on 7 x 7 taps",
        network=_of(partial(_continuous, size=5, mask=_MASK)),
        events=_extend,
        rate_of=_CONTINUOUS,
        at=_CUT,
    ),
}
KERNELS = Family(
    title="Kernels",
    question="Are continuous kernels better than fixed ones, and does it help to widen kernels in the middle?",
    baseline=_BASE,
    controls=(_BASE,),
    groups={
        "fixed and wider": ("fixed 5", "fixed 7"),
        "widened": ("widened",),
        "continuous": (_CONTINUOUS, "continuous 7"),
        "continuous and extended": ("extended",),
    },
    tasks=(Task("kernels", "fashion"), Task("kernels", "cifar")),
)
