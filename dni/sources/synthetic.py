"""Which sources predict the gradient at a stage's output instead of waiting for it?

Letters: N samples, *F the shape of one sample's output.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dni.members import Members
from dni.schedules.schedule import CONSTANT, Schedule
from dni.sources.context import LabelContext, any_labels
from dni.sources.regression import ADAM, OptimizerFactory, Regression
from dni.sources.source import Need, Signal, gradient_of, target_of
from dni.sources.synthesizers import Synthesizer, make_synthesizer
from dni.sources.unit_changes import AxisChanges, changes_of, within
from dni.structure.origin import Origin

__all__ = ["ConditionalSyntheticGradient", "SyntheticGradient"]


class SyntheticGradient(nn.Module):
    """Predict dL/dh from h alone, and learn from the gradient that arrives later (DNI).

    δ̂ = M(h; φ), fitted to δ = dL/dh by descent on (1/N) sum over n of ||M(h_n; φ) - δ_n||².
    Source: Jaderberg et al. 2017 (arXiv 1608.05343), section 2. Differs: δ is the gradient of the loss
    summed, not averaged, over the microbatch. δ may itself come from a prediction: from the one above,
    through the next stage.

    Args:
        synthesizer: M. A name ("linear", "low-rank", "mlp", "convolutional"), a spec such as
            `MLP(hidden=(256,))`, a function (h, num_context) -> module, or a module of your own, called as
            module(h).
        optimizer: makes M's optimiser from an iterable of parameters.
        schedule: factor of the optimiser's learning rates, as a function of the step.

    Raises:
        ValueError: at build, if M cannot serve h or does not return h's shape.
    """

    needs = Need.NONE
    learns_from = Need.GRADIENT

    def __init__(
        self,
        synthesizer: Synthesizer = "linear",
        *,
        optimizer: OptimizerFactory = ADAM,
        schedule: Schedule = CONSTANT,
    ) -> None:
        super().__init__()
        make = partial(make_synthesizer, synthesizer, num_context=0)
        self.regression = Regression(make, optimizer=optimizer, schedule=schedule)

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.regression.build(h, generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        self.regression.remap(origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return self.regression.estimate(h)

    def implied_loss(self, h: Members, signal: Signal) -> Tensor:
        return self.regression.implied_by_field(h)

    def learn(self, h: Members, signal: Signal) -> float:
        return self.regression.learn(h, gradient_of(signal, self), step=signal.step)


class ConditionalSyntheticGradient(nn.Module):
    """Predict dL/dh from h and the labels (cDNI).

    δ̂ = M(h, c(y); φ), fitted as in `SyntheticGradient`; c is `LabelContext`, and its embedding, if any, is
    part of φ.
    Source: Jaderberg et al. 2017 (arXiv 1608.05343), section 3.1; its best cDNI had a linear M, the default
    here.

    Args:
        num_classes: labels lie in [0, num_classes).
        synthesizer: M, as for `SyntheticGradient`; a module of your own is called as module(h, context).
        embedding_dim: length of a learned embedding of the labels; None: one-hot. One-hots of a vocabulary
            are large.
        optimizer: makes M's optimiser from an iterable of parameters.
        schedule: factor of the optimiser's learning rates, as a function of the step.

    Raises:
        ValueError: at build, if M cannot serve h or does not return h's shape; at each step, if the labels
            are missing, lie outside [0, num_classes) or do not match h.
    """

    needs = Need.TARGET
    learns_from = Need.GRADIENT | Need.TARGET

    def __init__(
        self,
        num_classes: int = 10,
        synthesizer: Synthesizer = "linear",
        *,
        embedding_dim: int | None = None,
        optimizer: OptimizerFactory = ADAM,
        schedule: Schedule = CONSTANT,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        make = partial(_Conditioned, synthesizer, num_classes=num_classes, embedding_dim=embedding_dim)
        self.regression = Regression(make, optimizer=optimizer, schedule=schedule)

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.regression.build(h, any_labels(h), generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        self.regression.remap(origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return self.regression.estimate(h, target_of(signal, self))

    def implied_loss(self, h: Members, signal: Signal) -> Tensor:
        return self.regression.implied_by_field(h, target_of(signal, self))

    def learn(self, h: Members, signal: Signal) -> float:
        return self.regression.learn(h, gradient_of(signal, self), target_of(signal, self), step=signal.step)


class _Conditioned(nn.Module):
    """A synthesizer and the form in which it sees the labels."""

    def __init__(self, synthesizer: Synthesizer, h: Tensor, *, num_classes: int, embedding_dim: int | None) -> None:
        super().__init__()
        self.labels = LabelContext(num_classes, embedding_dim=embedding_dim)
        self.synthesizer = make_synthesizer(synthesizer, h, num_context=self.labels.num_context)

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        return within("synthesizer", changes_of(self.synthesizer, origin, h))

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        return self.synthesizer(h, self.labels(h, target))  # type: ignore[no-any-return]
