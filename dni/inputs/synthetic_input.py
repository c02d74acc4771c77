"""How does a stage run forward without waiting for the stages below it?

Letters: N samples, *F the shape of one sample of a member of h.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dni.members import Members, as_tuple, carriers, map_members
from dni.schedules.schedule import CONSTANT, Schedule
from dni.schedules.update_probability import UpdateProbability
from dni.sources.regression import ADAM, OptimizerFactory, Regression
from dni.sources.source import Need
from dni.sources.unit_changes import AxisChanges, UnitFollower, gives, last_gives, within
from dni.structure.layout import flattened
from dni.structure.origin import Origin

__all__ = ["InputMLP", "InputNetwork", "SyntheticInput"]


InputNetwork: TypeAlias = nn.Module | Callable[[Members, Tensor], nn.Module]
"""A module of the user's own, called as module(x) (copied for each member of h), or a function (x, member) -> module,
of which only shapes, dtypes and devices are meant to be read."""


@dataclass(frozen=True)
class InputMLP:
    """Hidden layers of Linear, BatchNorm, ReLU; a linear last: of x flattened, to one member of h."""

    hidden: tuple[int, ...] = (256,)
    """Width of each hidden layer; none: a linear map."""
    batch_norm: bool = True
    """Whether hidden layers are normalised over the microbatch."""

    def __post_init__(self) -> None:
        if any(size < 1 for size in self.hidden):
            raise ValueError(f"hidden widths must all be at least 1, got {self.hidden}.")

    def __call__(self, x: Members, member: Tensor) -> nn.Module:
        if not carriers(x):
            raise ValueError(
                "a synthetic input by InputMLP needs a floating-point tensor in the network's input, got "
                f"{', '.join(str(part.dtype) for part in as_tuple(x) if part is not None)}. "
                "Give SyntheticInput a network of your own, which may embed tokens."
            )
        widths = (sum(math.prod(part.shape[1:]) for part in carriers(x)), *self.hidden)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            # A bias before BatchNorm is subtracted again with the mean.
            layers.append(nn.Linear(before, after, bias=not self.batch_norm))
            layers.extend([nn.BatchNorm1d(after)] if self.batch_norm else [])
            layers.append(nn.ReLU())
        layers.append(nn.Linear(widths[-1], math.prod(member.shape[1:])))
        return _Flattened(nn.Sequential(*layers), member.shape[1:])


class SyntheticInput(nn.Module):
    """Predict what the stage below would send from the network's input, so that the stage need not wait for it.

    ĥ = I(x; ψ), fitted to the h that arrives later by descent on (1/N) sum over n of ||I(x_n; ψ) - h_n||². With this at
    every boundary, and synthetic gradients, no stage waits for another: complete unlocking. What the stage below is
    answered with is dL/dĥ. h may itself have been computed from a prediction.
    Source: Jaderberg et al. 2017 (arXiv 1608.05343), section 3.3 and figure 6.

    Args:
        network: I: an `InputMLP`, a function (x, member of h) -> module, or a module of your own, called as module(x).
        update_probability: share of the steps that I learns from, drawn for each boundary and step by itself.
        optimizer: makes I's optimiser from an iterable of parameters.
        schedule: factor of the optimiser's learning rates, as a function of the step.

    Raises:
        ValueError: a probability outside [0, 1]; at build, if I cannot serve x, does not return h's shape, or h holds
            members that are not floating-point, which no regression predicts.
    """

    needs = Need.INPUT

    def __init__(
        self,
        network: InputNetwork = InputMLP(),
        *,
        update_probability: float = 1.0,
        optimizer: OptimizerFactory = ADAM,
        schedule: Schedule = CONSTANT,
    ) -> None:
        super().__init__()
        self.update_probability = UpdateProbability(update_probability)
        self.regression = Regression(self._make, optimizer=optimizer, schedule=schedule)
        self._network = _Held(network)
        self._x: Members = ()
        """A sample of nothing: its shapes, dtypes and devices are x's."""
        self._is_tuple = False

    def build(self, x: Members, h: Members, *, generator: torch.Generator) -> None:
        if len(carriers(h)) != len(as_tuple(h)):
            raise ValueError(
                "a synthetic input can stand for floating-point tensors only, and h holds "
                f"{', '.join('nothing' if m is None else str(m.dtype) for m in as_tuple(h))}. "
                "Cut the model where only such cross, or use ReceivedInput at this boundary."
            )
        self._x = map_members(lambda part: part.new_zeros((1, *part.shape[1:])), x)
        self._is_tuple = isinstance(h, tuple)
        self.regression.build(h, *_parts(x), generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """A copy is predicted as its unit is; a new one as 0 until that is learned."""
        self.regression.remap(origin, generator=generator, axis=axis)

    def estimate(self, x: Members) -> Members:
        shapes = tuple(self.regression.templates)
        return self.regression.estimate(shapes if self._is_tuple else shapes[0], *_parts(x))

    def learn(self, x: Members, h: Members, *, step: int) -> float:
        return self.regression.learn(h, h, *_parts(x), step=step)

    def get_extra_state(self) -> dict[str, Any]:
        return {"x": self._x, "is_tuple": self._is_tuple}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Called before the networks are loaded, which may have to be made for these shapes first."""
        self._x, self._is_tuple = state["x"], state["is_tuple"]

    def _make(self, member: Tensor) -> nn.Module:
        return _OfInput(self._network.make(self._x, member), is_tuple=isinstance(self._x, tuple))


@dataclass(frozen=True)
class _Held:
    """What the user chose; not a submodule, for it is no part of the state."""

    network: InputNetwork

    def make(self, x: Members, member: Tensor) -> nn.Module:
        if isinstance(self.network, nn.Module):
            return copy.deepcopy(self.network)
        module = self.network(x, member)
        if not isinstance(module, nn.Module):
            raise TypeError(
                "the network of a synthetic input must be a module, or a function (x, member) that returns one, got "
                f"{self.network!r}, which gave {type(module).__name__}. Return an nn.Module."
            )
        return module


class _OfInput(nn.Module):
    """A network of x in the form that `Regression` calls: after the member that it predicts."""

    def __init__(self, network: nn.Module, *, is_tuple: bool) -> None:
        super().__init__()
        self.network = network
        self.is_tuple = is_tuple

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        if isinstance(self.network, UnitFollower):
            return within("network", self.network.axis_changes(origin, h))
        # Copies are predicted alike, and each sees the error of its unit: nothing is scaled.
        changes = gives(self.network, origin.raised(0), h, side="producer", remedy="use InputMLP")
        return within("network", changes)

    def forward(self, member: Tensor, *x: Tensor) -> Tensor:
        predicted: Tensor = self.network(x if self.is_tuple else x[0])
        return predicted


class _Flattened(nn.Module):
    """A map of the floating-point members of x, flattened and put side by side, to a shape of its own.

    The number of units in it follows the map.
    """

    def __init__(self, map: nn.Module, shape: torch.Size) -> None:
        super().__init__()
        self.map = map
        self.shape = shape

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        rows = flattened(origin.raised(0), h.shape[1:].numel(), units_last=h.dim() == 3)
        return within("map", last_gives(self.map, rows, side="producer"))

    def forward(self, x: Members) -> Tensor:
        rows = torch.cat([part.flatten(1) for part in carriers(x)], dim=1)
        predicted: Tensor = self.map(rows.to(next(self.map.parameters()).dtype))
        shape, units = list(self.shape), 1 if len(self.shape) == 2 else 0
        shape[units] = predicted.shape[1] // (math.prod(shape[:units]) * math.prod(shape[units + 1 :]))
        return predicted.view(len(rows), *shape)


def _parts(x: Members) -> tuple[Tensor, ...]:
    return tuple(part for part in as_tuple(x) if part is not None)
