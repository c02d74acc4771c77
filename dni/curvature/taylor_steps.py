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
from dni.structure.dependencies import generators_kept

__all__ = ["Step", "steps_of", "work_out_of_place"]

_SUMS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.add_)
_FLATTEN = (torch.flatten, Tensor.flatten, Tensor.view, Tensor.reshape, torch.reshape)
_AS_LAYERS: Mapping[Any, Callable[[], nn.Module]] = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu), nn.ReLU),
    **dict.fromkeys((torch.tanh, Tensor.tanh), nn.Tanh),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid), nn.Sigmoid),
    F.silu: nn.SiLU,
    F.elu: nn.ELU,
    F.gelu: nn.GELU,
    F.softplus: nn.Softplus,
}
"""Functions that are known by their layer, where they are given nothing else than its defaults."""
_DEFAULTS = {"inplace": False, "alpha": 1.0, "approximate": "none"}


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
        module: one that is no chain is run, so it must be a copy (of which no layer works in place any more).
        few: samples on which one that is no chain is watched. None: it must be a chain.

    Raises:
        TypeError: a layer is of no known kind, is there twice or shares a parameter, or something else is done than
            adding.
    """
    layers = list(_layers(module))
    is_row = all(is_known(layer) or not list(layer.children()) for _, layer in layers)
    steps = _in_a_row(layers) if few is None or is_row else _watched(module, few)
    if len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False))):
        raise _refused("a parameter that two layers share")
    return steps


def work_out_of_place(module: nn.Module) -> None:
    """What enters a layer is used again."""
    for part in module.modules():
        if is_known(part) and hasattr(part, "inplace"):
            vars(part)["inplace"] = False


def _in_a_row(layers: Sequence[tuple[str, nn.Module]]) -> list[Step]:
    seen: set[int] = set()
    for name, layer in layers:
        if not is_known(layer) or id(layer) in seen:
            raise _refused(f"layer {name!r}, a {type(layer).__name__},")
        seen.add(id(layer))
    return [Step(name=name, layer=layer, inputs=(at,)) for at, (name, layer) in enumerate(layers)]


def _watched(module: nn.Module, few: Tensor) -> list[Step]:
    work_out_of_place(module)
    original, few = few, few.clone()  # a forward may write into what it is given
    watch, handles = _Watch(few), []
    for name, part in list(module.named_modules()):
        if is_known(part):
            handles += [part.register_forward_pre_hook(watch.enter), part.register_forward_hook(watch.leave(name))]
        elif not list(part.children()):
            handles += [part.register_forward_pre_hook(_refuse(name))]
    try:
        with generators_kept(module, few), torch.no_grad(), watch:
            found = module(few)
        steps = watch.steps[: watch.place_of(found, "the output")]
    except _UnknownError as unknown:
        raise _refused(str(unknown)) from unknown
    finally:
        for handle in handles:
            handle.remove()
    with generators_kept(module, few), torch.no_grad():
        if not torch.allclose(found, module(original.clone()), equal_nan=True):
            raise _refused("what is added in place to something that is used again")
    return steps


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential or module._forward_hooks or module._forward_pre_hooks:
        yield prefix, module
        return
    for name, child in module._modules.items():  # named_children leaves out what is there twice
        assert child is not None
        yield from _layers(child, f"{prefix}.{name}" if prefix else name)


def _refused(what: str) -> TypeError:
    return TypeError(
        f"{what} must be of a kind that Taylor series are known for, without hooks, in evaluation if it is dropout, "
        "and there once. Use summarise(loss_parts(...))."
    )


class _UnknownError(Exception):
    """What is unknown. (No TypeError: an operator that raises one is tried the other way round.)"""


def _refuse(name: str) -> Callable[[nn.Module, Any], None]:
    def refuse(layer: nn.Module, _: Any) -> None:
        raise _UnknownError(f"layer {name!r}, a {type(layer).__name__},")

    return refuse


class _Watch(TorchFunctionMode):
    """Writes down the steps of a forward pass."""

    def __init__(self, few: Tensor) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._values = [few]
        """Kept alive, so that no two have the same id."""
        self._places = {id(few): 0}
        self._num_samples = len(few)
        self._is_within = False
        """A layer is at work."""

    def enter(self, layer: nn.Module, _: Any) -> None:
        """A hook before a layer."""
        if any(step.layer is layer for step in self.steps):
            raise _UnknownError(f"a {type(layer).__name__} that is used twice")
        self._is_within = True

    def leave(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """A hook after a layer."""

        def note(layer: nn.Module, entered: tuple[Tensor, ...], left: Tensor) -> None:
            self._is_within = False
            self._note(name, layer, entered, left)

        return note

    def place_of(self, value: Any, what: str) -> int:
        """Which value this is.

        Raises:
            _UnknownError: it is none that a step made.
        """
        if id(value) not in self._places:
            raise _UnknownError(f"what enters {what} (a {type(value).__name__} that no known step made)")
        return self._places[id(value)]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Let a function be called, and note what it was; what is added in place is added elsewhere."""
        kwargs = kwargs or {}
        if self._is_within:
            return func(*args, **kwargs)
        if func in _SUMS and len(args) == 2 and not kwargs and all(isinstance(each, Tensor) for each in args):
            found = args[0] + args[1] if args[0].shape == args[1].shape else None
            return self._note("a sum", None, args, found)
        found = func(*args, **kwargs)
        if not isinstance(found, Tensor):
            return found
        if func in _FLATTEN and found.dim() == 2 and len(found) == self._num_samples:
            return self._note(func.__name__, nn.Flatten(), args[:1], found)
        if func in _AS_LAYERS and len(args) == 1 and all(_DEFAULTS.get(key) == own for key, own in kwargs.items()):
            return self._note(func.__name__, _AS_LAYERS[func](), args, found)
        raise _UnknownError(f"{getattr(func, '__name__', func)}, which is called between layers,")

    def _note(self, name: str, layer: nn.Module | None, entered: tuple[Tensor, ...], left: Tensor | None) -> Tensor:
        if left is None:
            raise _UnknownError("a sum of tensors of different shapes")
        inputs = tuple(self.place_of(each, name) for each in entered)
        self.steps.append(Step(name=name, layer=layer, inputs=inputs))
        self._values.append(left)
        self._places[id(left)] = len(self.steps)
        return left
