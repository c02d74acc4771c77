"""With which weights is a gradient pulled back, if the graph keeps none?

A graph keeps what its operations saved, and among that the weights, which is why autograd refuses to go back through
weights that an update has changed. A graph made here keeps names in their place, and looks them up when a gradient is
pulled back: the activations are of the forward, the weights of today, or others given for the occasion. So no copy of
the weights is kept, however many microbatches are held. What a module has computed from a weight (another dtype, a
norm) is an activation to autograd, and stays as the forward had it.    Source: the asynchronous gradient of two sets of
weights, Yang et al. 2021 (PipeMare, arXiv 1910.05124).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from pipeline.errors import RunError

__all__ = ["WeightlessGraphs"]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a parameter a saved tensor lay: a parameter is saved as a view, a transposed one most often."""

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    """Elements from where the parameter begins."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A saved tensor that is no weight; autograd looks after versions only where no hooks are."""

    tensor: Tensor
    version: int


class WeightlessGraphs:
    """Makes a module's forwards keep no weights, and pulls gradients back through them.

    Args:
        module: the stage's module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._given: Mapping[str, Tensor] = {}

    @contextmanager
    def forward(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Let the module's forward in the block make such a graph, with other weights in the place of its own if given.

        The gradients are those of the module's own parameters all the same.
        """
        parameters = dict(self._module.named_parameters())
        own = {name: parameters[name].data for name in weights or {}}
        try:
            for name in own:
                assert weights is not None
                parameters[name].data = weights[name].data
            names = _names_by_storage(parameters)
            with saved_tensors_hooks(lambda tensor: _pack(tensor, names, parameters), self._unpack):
                yield
        finally:
            for name, value in own.items():
                parameters[name].data = value

    @contextmanager
    def backward(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Pull gradients back in the block, through these weights where given, else through the module's of today."""
        self._given = weights or {}
        try:
            yield
        finally:
            self._given = {}

    def _unpack(self, saved: object) -> Tensor:
        match saved:
            case _Place(name=name, size=size, stride=stride, offset=offset):
                weight = self._given.get(name)
                weight = self._module.get_parameter(name) if weight is None else weight
                return weight.detach().as_strided(size, stride, weight.storage_offset() + offset)
            case _Kept(tensor=tensor, version=version):
                if tensor._version != version:
                    raise RunError(
                        f"a tensor of shape {tuple(tensor.shape)} that the backward needs was saved at version "
                        f"{version} and has been changed since (version {tensor._version}), and it is no parameter "
                        "with memory of its own. With stash graph only such may change; use stash weights or recompute."
                    )
                return tensor
            case _:
                raise AssertionError(f"nothing of this kind was saved: {saved!r}")


def _names_by_storage(parameters: Mapping[str, Tensor]) -> dict[int, str]:
    """Parameters by the address of their memory; those that share one are left to autograd, which finds changes."""
    addresses = {name: parameter.untyped_storage().data_ptr() for name, parameter in parameters.items()}
    sharers = Counter(addresses.values())
    return {address: name for name, address in addresses.items() if sharers[address] == 1 and address}


def _pack(tensor: Tensor, names: Mapping[int, str], parameters: Mapping[str, Tensor]) -> _Place | _Kept:
    name = names.get(tensor.untyped_storage().data_ptr())
    if name is None or tensor.dtype != parameters[name].dtype:
        # Detached: a saved output that kept its own graph would never be freed.
        return _Kept(tensor.detach(), tensor._version)
    offset = tensor.storage_offset() - parameters[name].storage_offset()
    return _Place(name, tuple(tensor.size()), tuple(tensor.stride()), int(offset))
