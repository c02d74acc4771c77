"""Which source has the structure of a real gradient? The backward pass of a small model of all that lies above."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dni.members import Members, num_samples
from dni.schedules.schedule import CONSTANT, Schedule
from dni.sources.context import any_labels
from dni.sources.heads import Head, LabelLoss, MLPHead
from dni.sources.regression import ADAM, OptimizerFactory, Regression
from dni.sources.source import Need, Signal, gradient_of, target_of
from dni.structure.origin import Origin

__all__ = ["VirtualGradient"]

_ONE_HIDDEN_LAYER = MLPHead(num_hidden=1)


class VirtualGradient(nn.Module):
    """Take the gradient of a small model of the rest of the network, fitted to the gradients that arrive later.

    ĝ = dCE(V(h; φ), y)/dh, fitted to δ = dL/dh by descent on (1/N) sum over n of ||ĝ_n - δ_n||² + w CE(V(h_n), y_n).
    A free synthesizer has to learn what every gradient has: that it ends in softmax(z) - onehot(y) and comes through
    a network's weights. V has it by construction, and learns from gradients what a local loss cannot: what the stages
    above make of h. Descending on ||ĝ - δ||² takes second derivatives of V, about twice the cost of a synthesizer of
    V's size.

    Source: Miyato et al. 2017 (VFBN, ICLR workshop) for the idea; Nair et al. 2025 (FSL-SAGE, arXiv 2505.23182) and
    its code for the fit. Differs: a step for each gradient that arrives, instead of a fit to stored outputs every few
    rounds; gradients are per sample; V classifies (cross entropy), whatever the network's loss is; w is ours.

    Args:
        num_classes: labels lie in [0, num_classes).
        model: V, as the head of a `LocalLoss`; by default one hidden layer.
        label_weight: w, at least 0. With it V also learns to classify, and so says something sensible before it has
            seen many gradients; a local loss is the limit of a large one.
        optimizer: makes V's optimiser from an iterable of parameters.
        schedule: factor of the optimiser's learning rates, as a function of the step.

    Raises:
        ValueError: w is negative; at build, if V cannot serve h; at each step, if the labels are missing, lie outside
            [0, num_classes) or do not match h.
    """

    needs = Need.TARGET
    learns_from = Need.GRADIENT | Need.TARGET

    def __init__(
        self,
        num_classes: int = 10,
        model: Head = _ONE_HIDDEN_LAYER,
        *,
        label_weight: float = 0.0,
        optimizer: OptimizerFactory = ADAM,
        schedule: Schedule = CONSTANT,
    ) -> None:
        super().__init__()
        if label_weight < 0.0:
            raise ValueError(f"label_weight must be at least 0, got {label_weight}.")
        self.num_classes = num_classes
        self._label_weight = label_weight
        self.regression = Regression(
            partial(LabelLoss, model, num_classes=num_classes), optimizer=optimizer, schedule=schedule
        )

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.regression.build(h, any_labels(h), generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        self.regression.remap(origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return self.regression.estimate(h, target_of(signal, self))

    def learn(self, h: Members, signal: Signal) -> float:
        target = target_of(signal, self)
        gradient = gradient_of(signal, self)
        return self.regression.descend(lambda: self._loss(h, gradient, target) / num_samples(h), step=signal.step)

    def _loss(self, h: Members, gradient: Members, target: Tensor) -> Tensor:
        loss = self.regression.squared_error(h, gradient, target)
        if self._label_weight == 0.0:
            return loss
        return loss + self._label_weight * self.regression.total(h, lambda model, member: model.loss(member, target))
