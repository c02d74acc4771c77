"""What is a source's gradient off by, at its stage's output: from what it learns, and from the truth? And how much of
that would a better one be rid of?

(a) A synthesizer learns from the used gradient of the stage above, pulled back through it: its bootstrapped target.
(b) The truth is dL/dh by backprop. Both on held-out samples. Then synthesizers of several forms are fitted to the truth
by least squares, with everything else as it is: what is left is the form's alone.
Source: the measures of value prediction and of baselines of Ilyas et al. 2020 (arXiv 1811.02553), figures 4 and 5.

Letters: N samples, F features of h, K classes, Q columns of a design matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import Signal, agreement, grade, grade_source, pull_back
from experiments.landscape.config import NUM_CLASSES, NUM_STAGES
from experiments.landscape.frozen import Frozen

__all__ = ["FORMS", "fit_forms", "forward", "grade_boundaries", "grade_forms", "true_gradients"]

FORMS = ("a constant per class", "linear, no labels", "linear with labels", "linear per class")
"""Synthesizers that are fitted to the truth. `linear with labels` is the form of the conditional synthesizers here."""
_TOLERANCE = 1e-10
"""Of singular values, below which the design matrix has none: units that never fire."""

Batch = tuple[Tensor, Tensor]
Weights = Mapping[str, Tensor]
"""By form, (Q, F)."""


def grade_boundaries(frozen: Frozen, batch: Batch) -> list[dict[str, float]]:
    """By stage below the last: the grades of its source (`dni.grade_source`), and how far its target is off the truth.

    Args:
        frozen: what is looked at.
        batch: samples that were not trained on.
    """
    x, target = batch
    inputs, outputs = forward(frozen.stages, x)
    true = true_gradients(frozen, inputs, outputs, target)
    found: list[dict[str, float]] = []
    sent: Tensor | None = None
    for index in reversed(range(NUM_STAGES)):
        graph, truth = outputs[index], true[index]
        used, grades = grade_source(
            frozen.sources[index],
            graph.detach(),
            Signal(step=frozen.step, target=target, gradient=sent),
            true=[truth],
            graph=[graph],
            parameters=list(frozen.stages[index].parameters()),
        )
        assert used is not None
        if sent is not None:
            grades["target_to_truth"] = agreement([sent], [truth])["relative_error"]
            found.insert(0, grades)
        (sent,) = pull_back([graph], [inputs[index]], used)
    return found


def fit_forms(frozen: Frozen, batch: Batch) -> list[Weights]:
    """By stage below the last, the weights of each form that are closest to the truth on these samples."""
    x, target = batch
    inputs, outputs = forward(frozen.stages, x)
    true = true_gradients(frozen, inputs, outputs, target)
    return [
        {form: _fitted(form, h.detach(), target, truth) for form in FORMS}
        for h, truth in zip(outputs[:-1], true[:-1], strict=True)
    ]


def grade_forms(frozen: Frozen, weights: Sequence[Weights], batch: Batch) -> list[dict[str, dict[str, float]]]:
    """By stage below the last and form: the grades of the fitted synthesizers, on other samples."""
    x, target = batch
    inputs, outputs = forward(frozen.stages, x)
    true = true_gradients(frozen, inputs, outputs, target)
    found = []
    for index, fitted in enumerate(weights):
        graph = outputs[index]
        found.append(
            {
                form: grade(
                    [graph],
                    list(frozen.stages[index].parameters()),
                    used=[(_design(form, graph.detach(), target) @ own).float()],
                    true=[true[index]],
                    target=None,
                    num_parts=1,
                )
                for form, own in fitted.items()
            }
        )
    return found


def forward(stages: Sequence[nn.Module], x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Each stage's input, a leaf, and its output, whose graph ends there."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for stage in stages:
        leaf = x.detach().requires_grad_()
        x = stage(leaf)
        inputs, outputs = [*inputs, leaf], [*outputs, x]
    return inputs, outputs


def true_gradients(frozen: Frozen, inputs: Sequence[Tensor], outputs: Sequence[Tensor], target: Tensor) -> list[Tensor]:
    """dL/dh at each stage's output, the loss summed over the samples."""
    top = frozen.sources[-1].estimate(outputs[-1].detach(), Signal(step=frozen.step, target=target))
    assert isinstance(top, Tensor)
    found = [top]
    for x, h in zip(reversed(inputs[1:]), reversed(outputs[1:]), strict=True):
        found[:0] = pull_back([h], [x], found[:1])
    return found


def _design(form: str, h: Tensor, target: Tensor) -> Tensor:
    """What the gradient is linear in, (N, Q), float64."""
    classes = F.one_hot(target, NUM_CLASSES).double()
    ones = torch.cat([h.double(), torch.ones(len(h), 1, dtype=torch.float64)], dim=1)
    match form:
        case "a constant per class":
            return classes
        case "linear, no labels":
            return ones
        case "linear with labels":
            return torch.cat([ones, classes], dim=1)
    return (classes[:, :, None] * ones[:, None, :]).flatten(1)


def _fitted(form: str, h: Tensor, target: Tensor, gradient: Tensor) -> Tensor:
    """The smallest weights (Q, F) of those with the smallest squared error."""
    if form == "linear per class":  # a problem of its own for each
        of_class = [target == label for label in range(NUM_CLASSES)]
        return torch.cat([_fitted("linear, no labels", h[own], target[own], gradient[own]) for own in of_class])
    design = _design(form, h, target)
    moments = design.T @ design
    return torch.linalg.pinv(moments, rtol=_TOLERANCE, hermitian=True) @ (design.T @ gradient.double())
