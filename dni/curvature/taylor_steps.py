"""Of which steps does a module consist, that Taylor series can be taken through?

A step is a layer of a known kind, or a sum. Of an `nn.Sequential`, nested or not, they are read off. The forward of any
other module is watched once, on a few samples: hooks see its layers, and a mode of `__torch_function__` (of this thread
alone, unlike what torch.fx patches) sees what it does between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dni.curvature.taylor_layers import is_known

__all__ = ["Step", "steps_of"]

_SUMS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__)
_FLATTEN = (torch.flatten, Tensor.flatten)
_AS_LAYERS: Mapping[Any, Callable[[], nn.Module]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), nn.ReLU),
    **dict.fromkeys((torch.tanh, Tensor.tanh), nn.Tanh),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid), nn.Sigmoid),
    **{F.elu: nn.ELU, F.gelu: nn.GELU, F.silu: nn.SiLU, F.softplus: nn.Softplus},
}
"""Functions that are known by their layer, where they are given nothing but the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: it makes value k + 1 if it is step k; value 0 is what enters the module."""

    name: str
    layer: nn.Module | None
    """None: the sum of what enters."""
    inputs: tuple[int, ...]
    """Which values enter."""


def steps_of(module: nn.Module, few: Tensor | None) -> list[Step]:
    """The steps of a module, the last of which makes its output.

    Args:
        module: a copy that may be run. Its layers no longer work in place.
        few: samples on which one that is no chain is watched. None: it must be a chain.

    Raises:
        TypeError: a layer is of no known kind, is there twice, or something else is done than adding.
    """
    layers = list(_layers(module))
    if few is None or all(is_known(layer) for _, layer in layers):
        _check(layers)
        return [Step(name=name, layer=layer, inputs=(at,)) for at, (name, layer) in enumerate(layers)]
    watched = _Watched(few)
    handles = []
    for name, part in module.named_modules():
        if is_known(part):
            vars(part)["inplace"] = False
        if is_known(part) or not list(part.children()):
            handles += [part.register_forward_pre_hook(watched.before(name))]
            handles += [part.register_forward_hook(watched.after(name))]
    try:
        with torch.no_grad(), watched:
            found = module(few)
    finally:
        for handle in handles:
            handle.remove()
    steps = watched.steps_to(found)
    with torch.no_grad():
        if not torch.equal(found, module(few)):
            raise TypeError(f"{type(module).__name__} must not change in place what it uses again.")
    return steps


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        yield prefix, module
        return
    for name, child in module._modules.items():  # named_children leaves out what is there twice
        assert child is not None
        yield from _layers(child, f"{prefix}.{name}" if prefix else name)


def _check(layers: Sequence[tuple[str, nn.Module]]) -> None:
    seen: set[int] = set()
    for name, layer in layers:
        if not is_known(layer) or id(layer) in seen:
            raise _refused(f"layer {name!r}, a {type(layer).__name__},")
        seen.add(id(layer))
        if hasattr(layer, "inplace"):
            vars(layer)["inplace"] = False  # what enters it is used again


def _refused(what: str) -> TypeError:
    return TypeError(
        f"{what} must be of a kind that Taylor series are known for, without hooks, in evaluation if it is dropout, and "
        "in the network once. Use summarise(loss_parts(...))."
    )


class _Watched(TorchFunctionMode):
    """Writes down the steps of a forward pass."""

    def __init__(self, few: Tensor) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.values = [few]
        """Kept alive, so that no two have the same id."""
        self.place = {id(few): 0}
        self.seen: set[int] = set()
        self.within = False
        """A layer is at work."""

    def before(self, name: str) -> Callable[[nn.Module, Any], None]:
        """A hook for a layer, or for what has no layers in it."""

        def enter(layer: nn.Module, arguments: Any) -> None:
            known = type(layer)(*()) if False else None  # noqa: F841
            self.within = True

        return enter

    def after(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        raise NotImplementedError
