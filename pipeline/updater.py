"""How does a stage apply the gradients it has accumulated?

Gradients add up in `.grad` as sums over samples; an update divides them once by the samples they hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.decay import Decay
from pipeline.errors import NotFinite

__all__ = ["OptimizerFactory", "Updater"]


class OptimizerFactory(Protocol):
    """Makes an optimiser for some parameters, as `functools.partial(torch.optim.Adam, lr=1e-3)` does."""

    def __call__(self, parameters: Iterable[nn.Parameter], /) -> Optimizer:
        """An optimiser of `parameters`."""


class Updater:
    """The optimiser of one stage, its accumulated gradients and its schedule.

    Args:
        parameters: the stage's parameters under their global names.
        optimizer: makes the optimiser; not called for a stage without parameters.
        schedule: factor of the learning rates as a function of the step.
        clip_norm: largest norm of the stage's averaged gradient; infinity leaves it alone.
        decay: how its weights decay, apart from what the optimiser does itself.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        optimizer: OptimizerFactory,
        schedule: Callable[[int], float],
        clip_norm: float = math.inf,
        decay: Decay | None = None,
    ) -> None:
        self.parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        self.num_samples = 0
        """Samples in the accumulated gradients."""
        self._schedule = schedule
        self._clip_norm = clip_norm
        self._decay = decay
        self._optimizer = optimizer(list(self.parameters.values())) if self.parameters else None
        self._base_rates = [group["lr"] for group in self._groups()]
        self._fresh = [_numbers(group) for group in self._groups()]
        self._names = self._names_by_position()

    def accumulate(self, num_samples: int) -> None:
        """The gradients of this many further samples were added to `.grad`."""
        self.num_samples += num_samples

    def apply(self, step: int) -> bool:
        """Divide by the samples, clip, step the optimiser and clear. False if there was nothing to apply."""
        if self.num_samples == 0 or self._optimizer is None:
            self.num_samples = 0
            return False
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if gradients:
            torch._foreach_div_(gradients, self.num_samples)
        if gradients and not math.isinf(self._clip_norm):
            nn.utils.clip_grad_norm_(self.parameters.values(), self._clip_norm)
        factor = self._schedule(step)
        for group, rate in zip(self._groups(), self._base_rates, strict=True):
            group["lr"] = rate * factor
        if self._decay is not None:
            self._decay.apply(self._optimizer, step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.num_samples = 0
        return True

    def check_finite(self) -> None:
        """Raise `NotFinite`, naming the parameter, if one is not finite."""
        for name, parameter in self.parameters.items():
            if not torch.isfinite(parameter).all():
                raise NotFinite(f"parameter {name} holds NaN or infinity. Lower the learning rate or clip (clip_norm).")

    def state_dict(self) -> dict[str, Any]:
        """Optimiser state by parameter name, accumulated gradients and their number of samples.

        Of its groups, the numbers that have changed since the optimiser was made: some keep their progress there.
        """
        state = {} if self._optimizer is None else self._optimizer.state_dict()["state"]
        return {
            "optimizer": {self._names[position]: values for position, values in state.items()},
            "groups": [
                {name: value for name, value in _numbers(group).items() if value != fresh.get(name)}
                for group, fresh in zip(self._groups(), self._fresh, strict=True)
            ],
            "gradients": {n: p.grad.clone() for n, p in self.parameters.items() if p.grad is not None},
            "num_samples": self.num_samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. Learning rates come from the configuration, not from the state."""
        if self._optimizer is not None:
            positions = {name: position for position, name in self._names.items()}
            own = self._optimizer.state_dict()
            own["state"] = {positions[name]: values for name, values in state["optimizer"].items()}
            self._optimizer.load_state_dict(own)
            for group, changed in zip(self._groups(), state["groups"], strict=True):
                group.update(changed)
        for name, parameter in self.parameters.items():
            gradient: Tensor | None = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device).clone()
        self.num_samples = state["num_samples"]

    def _groups(self) -> list[dict[str, Any]]:
        return [] if self._optimizer is None else self._optimizer.param_groups

    def _names_by_position(self) -> dict[int, str]:
        """The optimiser numbers its parameters group by group; files name them."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        ordered = [parameter for group in self._groups() for parameter in group["params"]]
        return {position: names[id(parameter)] for position, parameter in enumerate(ordered)}


def _numbers(group: Mapping[str, Any]) -> dict[str, float]:
    """What an optimiser counts for a group of parameters; its learning rate is the schedule's."""
    return {name: value for name, value in group.items() if type(value) in (bool, int, float) and name != "lr"}
