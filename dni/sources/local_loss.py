"""Which source asks nobody above? A loss of the stage's own."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dni.members import Members, num_samples
from dni.schedules.schedule import CONSTANT, Schedule
from dni.sources.context import any_labels
from dni.sources.heads import Head, LabelLoss, gradient_at
from dni.sources.regression import ADAM, OptimizerFactory, Regression
from dni.sources.similarity import SimilarityMatching
from dni.sources.source import Need, Signal, target_of
from dni.sources.unit_changes import AxisChanges, within
from dni.structure.origin import Origin

__all__ = ["LocalLoss"]


class LocalLoss(nn.Module):
    """Give a stage the gradient of a loss of its own: how well a small head reads the labels off h (DGL).

    g = dl/dh of l = (1 - β) CE(head(h), y) + β || S(f(h)) - S(y) ||² / N, summed over samples; the head (and f) descend
    on the mean of the same l, on their own optimiser, and need nothing from above. So no gradient crosses a boundary
    with this source, and the stage below is at no time waited for. β = 0 is the auxiliary loss of DGL, β = 0.99
    "predsim". `dni.sources.similarity` has S and f.

    Source: Belilovsky et al. 2020 (arXiv 1901.08164), algorithm 1, and Nøkland and Eidnes 2019 (arXiv 1901.06656) for
    β; the heads are in `dni.sources.heads`. Differs: heads start at zero in their last layer, in DGL at random; the
    optimiser of the head is not the stage's; in predsim each stage, not each layer, has a loss, and images are pooled
    to P x P for the head, not to at most 4096 numbers.

    Args:
        num_classes: K; labels lie in [0, K).
        head: a name ("linear", "mlp", "convolutional"), a spec such as `MLPHead(num_hidden=1)`, a function
            (h, num_classes) -> module, or a module of your own.
        similarity_weight: β in [0, 1].
        optimizer: makes the optimiser of head and f from an iterable of parameters.
        schedule: factor of the optimiser's learning rates, as a function of the step.

    Raises:
        ValueError: β lies outside [0, 1]; at build, if the head cannot serve h; at each step, if the labels are
            missing, lie outside [0, K) or do not match h.
    """

    needs = Need.TARGET
    learns_from = Need.TARGET

    def __init__(
        self,
        num_classes: int = 10,
        head: Head = "linear",
        *,
        similarity_weight: float = 0.0,
        optimizer: OptimizerFactory = ADAM,
        schedule: Schedule = CONSTANT,
    ) -> None:
        super().__init__()
        if not 0.0 <= similarity_weight <= 1.0:
            raise ValueError(f"similarity_weight must lie in [0, 1], got {similarity_weight}. predsim has 0.99.")
        self.num_classes = num_classes
        make = partial(_Local, head, num_classes=num_classes, similarity_weight=similarity_weight)
        self.regression = Regression(make, optimizer=optimizer, schedule=schedule)

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.regression.build(h, any_labels(h), generator=generator)

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        self.regression.remap(origin, generator=generator, axis=axis)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return self.regression.estimate(h, target_of(signal, self))

    def implied_loss(self, h: Members, signal: Signal) -> Tensor:
        target = target_of(signal, self)
        return self.regression.implied(h, lambda local, member: local.loss(member, target))

    def learn(self, h: Members, signal: Signal) -> float:
        target = target_of(signal, self)

        def loss() -> Tensor:
            return self.regression.total(h, lambda local, member: local.loss(member, target)) / num_samples(h)

        return self.regression.descend(loss, step=signal.step)


class _Local(nn.Module):
    """The loss of one member of h: of its head, of its similarities, or of both."""

    def __init__(self, head: Head, h: Tensor, *, num_classes: int, similarity_weight: float) -> None:
        super().__init__()
        self._weight = similarity_weight
        self.labels = LabelLoss(head, h, num_classes=num_classes) if similarity_weight < 1.0 else None
        self.similarity = SimilarityMatching(h, num_classes) if similarity_weight > 0.0 else None

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        """Summed over samples, a scalar."""
        if self.similarity is None:
            assert self.labels is not None
            return self.labels.loss(h, target)
        similarity = self.similarity(h, target)
        if self.labels is None:
            return similarity  # type: ignore[no-any-return]
        return (1.0 - self._weight) * self.labels.loss(h, target) + self._weight * similarity  # type: ignore[no-any-return]

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        parts = {"labels": self.labels, "similarity": self.similarity}
        changes = {name: part.axis_changes(origin, h) for name, part in parts.items() if part is not None}
        return {name: own for path, part in changes.items() for name, own in within(path, part).items()}

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        """The gradient of the loss at h."""
        return gradient_at(h, lambda leaf: self.loss(leaf, target))
