"""How is a network run at other values of its tensors, without anything of it being changed?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from dni.landscape.direction import Point
from dni.members import Members, map_members
from dni.structure.dependencies import bare_copy

__all__ = ["Mode", "StillCopy", "drawing_from"]

Mode: TypeAlias = Literal["eval", "train"]
"""eval: BatchNorm by its running statistics, no dropout. train: by the batch's statistics, and dropout draws the same
at every point, so that a slice is of one function."""


class StillCopy:
    """A copy of a module whose tensors are given at every run: it has no state that a run could change.

    Buffers are cloned for each run; draws are the caller's (`drawing_from`). Hooks that are plain functions belong to
    it, others do not.

    Args:
        module: left as it is, now and later; what becomes of it does not reach the copy.
        mode: which of its two ways of running is looked at, whichever it is in.

    Raises:
        ValueError: there is no such mode.
        TypeError: the module cannot be copied.
    """

    def __init__(self, module: nn.Module, mode: Mode) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}.")
        self._module = bare_copy(module).train(mode == "train")
        self._buffers = dict(self._module.named_buffers())
        self.parameters = {name: own.detach() for name, own in self._module.named_parameters()}
        """By name, as they were."""

    def check(self, point: Point) -> None:
        """Raise `ValueError` if the module has no tensors like those of the point."""
        own = self.parameters | self._buffers
        for name, value in point.items():
            if name not in own or own[name].shape != value.shape:
                there = tuple(own[name].shape) if name in own else f"only {', '.join(own)}"
                raise ValueError(
                    f"a point must hold tensors of {type(self._module).__name__}, by its names and in its shapes, got "
                    f"{name} {tuple(value.shape)}, where it has {there}."
                )

    def run(self, point: Point, x: Members) -> Members:
        """What the module computes at a point; tensors that are not in it are as they were."""
        buffers = {name: value.clone() for name, value in self._buffers.items()}
        given = {name: value.clone() if name in self._buffers else value for name, value in point.items()}
        out: Members = torch.func.functional_call(
            self._module, buffers | given, (map_members(Tensor.clone, x),), strict=False
        )
        return out


@contextmanager
def drawing_from(seed: int, copies: Iterable[StillCopy]) -> Iterator[None]:
    """Whatever draws from process-wide generators draws from the seed; they are put back."""
    used = {own.device for copied in copies for own in copied.parameters.values()}
    devices = sorted(device.index for device in used if device.type == "cuda")
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed: it would also seed the devices that were not put aside.
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield
