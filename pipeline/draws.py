"""Where does a stage draw from the process-wide generators, as dropout does?

A copy on the CPU is watched while it handles one real batch. What that does not show, a module or source may say of
itself: `draws = True`.
"""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn

from pipeline.keyed import Phase

__all__ = ["DrawWatch", "module_phases", "source_phases"]

_LOOK = "get_state"


class DrawWatch:
    """Watches, inside a block, what is done with the process-wide CPU generator."""

    def __init__(self) -> None:
        self.drew = False
        """Whether the block drew, or put the generator into another state, be it for a while only."""
        self.looked = False
        """Whether it asked for the generator's state."""
        self._calls: set[str] = set()

    def __enter__(self) -> DrawWatch:
        self._before = torch.default_generator.get_state()
        self._profile = sys.getprofile()
        sys.setprofile(self._note)  # draws show in the state; what is put back afterwards shows in the calls only
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        sys.setprofile(self._profile)
        self.looked = _LOOK in self._calls
        self.drew = bool(self._calls - {_LOOK}) or not torch.equal(self._before, torch.default_generator.get_state())

    def _note(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and getattr(called, "__self__", None) is torch.default_generator:
            self._calls.add(called.__name__)


def module_phases(module: nn.Module, forward: DrawWatch) -> tuple[Phase, ...]:
    """The phases in which a stage's module draws, from what its forward has shown.

    A forward that asks for the generator's state (as that of `torch.utils.checkpoint` does) will put it back into that
    state in its backward, to draw the same again.
    """
    declared = _declares(module)
    phases: tuple[Phase, ...] = ()
    if declared or forward.drew or any(map(_may_draw, module.modules())):
        phases += ("forward", "evaluation")
    if declared or forward.looked:
        phases += ("backward",)
    return phases


def source_phases(source: object, *, estimate: DrawWatch, learn: DrawWatch) -> tuple[Phase, ...]:
    """The phases in which a source draws, from what asking it and letting it learn have shown."""
    parts = source.modules() if isinstance(source, nn.Module) else ()
    if _declares(source) or any(map(_may_draw, parts)):
        return ("estimate", "learn")
    watches: tuple[tuple[Phase, DrawWatch], ...] = (("estimate", estimate), ("learn", learn))
    return tuple(phase for phase, watch in watches if watch.drew or watch.looked)


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
