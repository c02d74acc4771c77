"""Where does a stage draw from the process-wide generators, as dropout does?

A copy on the CPU is watched while it handles one real batch. What that does not show (a later draw, an optimiser's),
the module or the source may say of itself: `draws = True`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from types import TracebackType
from typing import Any

import torch
from torch import nn

from pipeline.randomness.keyed import Phase

__all__ = ["DrawWatch", "input_phases", "module_phases", "source_phases"]

_LOOKING = "get_rng_state"
_PUTTING = ("manual_seed", "seed", "set_rng_state")


class DrawWatch:
    """Watches, inside a block, what is done with the process-wide CPU generator.

    Draws show in its state. Code that puts the generator into another state and then back (as `fork_rng` does) shows in
    the calls only, so PyTorch's functions for that are counted meanwhile.
    """

    def __init__(self) -> None:
        self.drew = False
        """Whether the block drew, or put the generator into another state, be it for a while only."""
        self.looked = False
        """Whether it asked for the generator's state."""
        self._originals: list[tuple[Any, str, Callable[..., Any]]] = []
        self._calls: set[str] = set()

    def __enter__(self) -> DrawWatch:
        self._before = torch.default_generator.get_state()
        for place in (torch, torch.random):
            for name in (_LOOKING, *_PUTTING):
                original = getattr(place, name)
                self._originals.append((place, name, original))
                setattr(place, name, self._counted(name, original))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for place, name, original in self._originals:
            setattr(place, name, original)
        self.looked = _LOOKING in self._calls
        changed = not torch.equal(self._before, torch.default_generator.get_state())
        self.drew = changed or not self._calls.isdisjoint(_PUTTING)

    def _counted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def called(*arguments: Any, **named: Any) -> Any:
            self._calls.add(name)
            return original(*arguments, **named)

        return called


def module_phases(module: nn.Module, forward: DrawWatch) -> tuple[Phase, ...]:
    """The phases in which a stage's module draws, from what its forward has shown.

    A forward that asks for the generator's state (as that of `torch.utils.checkpoint` does) will put it back into that
    state in its backward, to draw the same again.
    """
    if _declares(module):
        return ("forward", "evaluation", "backward", "update")
    phases: tuple[Phase, ...] = ()
    if forward.drew or any(map(_may_draw, module.modules())):
        phases += ("forward", "evaluation")
    if forward.looked:
        phases += ("backward",)
    return phases


def source_phases(source: object, *, estimate: DrawWatch, learn: DrawWatch) -> tuple[Phase, ...]:
    """The phases in which a source draws, from what asking it and letting it learn have shown."""
    return _drawing(source, {"estimate": estimate, "learn": learn})


def input_phases(source: object, *, imagine: DrawWatch, learn: DrawWatch) -> tuple[Phase, ...]:
    """The phases in which an input source draws, likewise."""
    return _drawing(source, {"imagine": imagine, "learn input": learn})


def _drawing(source: object, watches: Mapping[Phase, DrawWatch]) -> tuple[Phase, ...]:
    parts = source.modules() if isinstance(source, nn.Module) else ()
    declared = _declares(source) or any(map(_may_draw, parts))
    return tuple(phase for phase, watch in watches.items() if declared or watch.drew or watch.looked)


def _declares(owner: object) -> bool:
    parts = owner.modules() if isinstance(owner, nn.Module) else (owner,)
    return any(getattr(part, "draws", False) is True for part in parts)


def _may_draw(module: nn.Module) -> bool:
    """Whether it is a layer of PyTorch that draws when it is used, which the first batch may not have shown."""
    match module:
        case nn.modules.dropout._DropoutNd():
            return module.p > 0
        case nn.RNNBase() | nn.MultiheadAttention():
            return module.dropout > 0
        case _:
            return isinstance(module, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d)
