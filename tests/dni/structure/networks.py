"""Which networks do the tests of changing structure share, and how are new tensors put into them?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from dni import Hidden, NewUnits, Origin, TensorChange, apply_change, change_units, fit_
from pipeline.randomness.keyed import generator

__all__ = ["KEYED", "NETWORKS", "changed", "hidden_of", "rebuilt", "trained"]

KEYED = partial(generator, 0, step=0)


def _mlp() -> tuple[nn.Sequential, Tensor]:
    return nn.Sequential(nn.Linear(5, 4), nn.Identity(), nn.Tanh(), nn.Linear(4, 3)), torch.randn(7, 5)


def _normed_mlp() -> tuple[nn.Sequential, Tensor]:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(7, 5)


def _layer_norm() -> tuple[nn.Sequential, Tensor]:
    return nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 3)), torch.randn(7, 5)


def _conv1d() -> tuple[nn.Sequential, Tensor]:
    layers = nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 3, bias=False)
    return nn.Sequential(*layers), torch.randn(6, 2, 9)


def _conv2d() -> tuple[nn.Sequential, Tensor]:
    layers = nn.Conv2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)
    return nn.Sequential(*layers), torch.randn(6, 2, 9, 9)


def _flattened() -> tuple[nn.Sequential, Tensor]:
    layers = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Linear(4 * 6, 3)
    return nn.Sequential(*layers), torch.randn(6, 2, 4, 5)


NETWORKS: dict[str, Callable[[], tuple[nn.Sequential, Tensor]]] = {
    "mlp": _mlp,
    "normed_mlp": _normed_mlp,
    "layer_norm": _layer_norm,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "flattened": _flattened,
}
"""Each has four units between the layers 0 and 3, and a norm, or none, as layer 1."""


def trained(name: str) -> tuple[nn.Sequential, Tensor]:
    """A network in float64 whose norms have seen something, and an input."""
    network, x = NETWORKS[name]()
    network.double()
    for parameter in network[1].parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    network(torch.randn_like(x.double()))
    return network, x.double()


def hidden_of(network: nn.Sequential) -> Hidden:
    norms = [] if isinstance(network[1], nn.Identity) else ["1"]
    return Hidden.of(network, producers=["0"], consumers=["3"], norms=norms)


def changed(
    network: nn.Module,
    hidden: Hidden,
    origin: Origin,
    new: NewUnits | None = None,
    given: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """A copy of the network after a change of units."""
    return rebuilt(network, change_units(hidden, origin, new or NewUnits(), keyed=KEYED, given=given or {}))


def rebuilt(network: nn.Module, changes: Mapping[str, TensorChange]) -> nn.Module:
    """A copy of the network with these tensors."""
    copied = copy.deepcopy(network)
    held = copied.state_dict()
    fit_(copied, {name: apply_change(held[name], change) for name, change in changes.items()})
    return copied
