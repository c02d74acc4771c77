"""Which weights does a sparse network keep, and do they move? All but the output layer are 90 % sparse in the end."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn

from dni import SET, At, Event, EverySteps, GradualMagnitude, Rewire, RigL
from experiments.changing_structure.arm import Arm, Family
from experiments.changing_structure.networks import num_parameters
from experiments.changing_structure.pruning import FULL, full_size, of_width
from experiments.changing_structure.sites import Site

__all__ = ["SPARSE", "SPARSE_ARMS"]

_SPARSITY = 0.9
_LAYERS = ("layer1", "layer2", "layer3")
_TIMES = 16
"""In so many parts of the run RigL rewires once, and so does gradual pruning."""
_NARROW, _STATIC = "narrow", "static"


def _narrow(site: Site) -> nn.Sequential:
    """The widest dense network with no more parameters than the sparse ones keep."""
    full = full_size(site)
    pruned = sum(p.numel() for name, p in full.named_parameters() if name.split(".")[0] in _LAYERS and p.dim() > 1)
    kept, width = num_parameters(full) - _SPARSITY * pruned, 1
    while num_parameters(of_width(site, width + 1)) <= kept:
        width += 1
    return of_width(site, width)


def _static(site: Site) -> tuple[Event]:
    return (Event(At(0), Rewire(rule=SET(), layers=_LAYERS, sparsity=_SPARSITY)),)


def _set(site: Site) -> tuple[Event]:
    """The first draws the masks; then after each epoch."""
    return (Event(EverySteps(site.sizes.epoch, first=0), Rewire(rule=SET(), layers=_LAYERS, sparsity=_SPARSITY)),)


def _rigl(site: Site) -> tuple[Event]:
    until = 3 * site.steps // 4
    rewire = Rewire(rule=RigL(until=until), layers=_LAYERS, sparsity=_SPARSITY)
    return (Event(EverySteps(max(1, site.steps // _TIMES), first=0, last=until), rewire),)


def _gradual(site: Site) -> tuple[Event]:
    start, every = site.steps // 10, max(1, site.steps // _TIMES)
    stop = start + (3 * site.steps // 4 - start) // every * every
    rule = GradualMagnitude(start=start, stop=stop, final=_SPARSITY)
    return (Event(EverySteps(every, first=start, last=stop), Rewire(rule=rule, layers=_LAYERS)),)


# One stage, so that the densities are shared out over the whole network.
_sparse = partial(Arm, network=full_size, at=())
SPARSE_ARMS: Mapping[str, Arm] = {
    _NARROW: Arm(title="small and dense, as many parameters", network=_narrow),
    "rigl": _sparse(title="RigL", events=_rigl, rate_of=_STATIC),
    "set": _sparse(title="SET", events=_set, rate_of=_STATIC),
    _STATIC: _sparse(title="static, random", events=_static),
    "gradual": _sparse(title="gradual magnitude pruning", events=_gradual, rate_of=FULL),
}
SPARSE = Family(
    title="Sparse",
    question="At 90 % sparsity, does it pay to move the connections, and what is lost against dense?",
    baseline=FULL,
    controls=(FULL, _NARROW),
    groups={"RigL": ("rigl",), "SET": ("set",), "static": (_STATIC,), "gradual": ("gradual",)},
)
