"""How far do the updates of a stage move its weights?

One in so many updates is measured, each weight matrix and each tensor of filters by itself (`dni.measure_update`);
TensorBoard has a chart for each measure with a curve for each weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor, nn

from dni import measure_update
from pipeline.stages.trace import Recorder

__all__ = ["Before", "MovementMeter"]

Before: TypeAlias = Mapping[str, tuple[Tensor, Tensor | None]]
"""Weight and averaged gradient, as they were before an update, by global name."""


class MovementMeter:
    """Measures the updates of one stage.

    Args:
        module: the stage's module; what learns in it and has two dimensions or more is measured.
        names: global name of every entry of the module's state dict.
        recorder: takes the measures down, as `relative_update/NAME`.
        every: one in so many updates is measured; 0: none.
    """

    def __init__(self, module: nn.Module, *, names: Mapping[str, str], recorder: Recorder, every: int) -> None:
        self._weights = {names[name]: p for name, p in module.named_parameters() if p.requires_grad and p.dim() > 1}
        self._recorder = recorder
        self._every = every

    def before(self, version: int, *, num_samples: int) -> Before:
        """What the update after `version` others will be compared with, if it is one to be measured.

        `num_samples` are those that the gradients are the sum over; the average is measured before it is clipped.
        """
        if self._every == 0 or version % self._every or num_samples == 0:
            return {}
        return {
            name: (p.detach().clone(), None if p.grad is None else p.grad / num_samples)
            for name, p in self._weights.items()
        }

    def after(self, before: Before, step: int) -> None:
        """Take down how far the weights are from where they were."""
        for name, (weight, gradient) in before.items():
            for measure, value in measure_update(weight, self._weights[name], gradient).items():
                self._recorder.measure(f"{measure}/{name}", step, value)
