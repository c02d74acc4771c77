"""What is a few-shot task, and how is it drawn?

Letters: T tasks, C classes of a task, S support samples (C times the shots), Q queries (C times 15), F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Tasks", "draw_tasks"]


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Several tasks of one form."""

    support: Tensor
    """Features of the labelled samples, (T, S, F)."""
    target: Tensor
    """Their classes, (T, S)."""
    query: Tensor
    """Features of the samples to classify, (T, Q, F)."""
    answer: Tensor
    """Their classes, (T, Q), which a classifier never sees."""


def draw_tasks(
    features: Tensor, *, num_tasks: int, num_classes: int, shots: int, num_queries: int, generator: torch.Generator
) -> Tasks:
    """Tasks of classes and samples drawn without replacement; every class has as many queries as any other.

    Args:
        features: (characters, samples, F).
        num_tasks: T.
        num_classes: C.
        shots: support samples of each class.
        num_queries: queries of each class.
        generator: the draws are its.

    Raises:
        ValueError: there are fewer characters than C, or fewer samples of each than shots and queries.
    """
    num_characters, num_samples, _ = features.shape
    if num_characters < num_classes or num_samples < shots + num_queries:
        raise ValueError(
            f"tasks of {num_classes} classes with {shots} + {num_queries} samples need as many, got {num_characters} "
            f"characters with {num_samples} samples. Ask for fewer."
        )
    classes = torch.rand(num_tasks, num_characters, generator=generator).argsort(1)[:, :num_classes]
    order = torch.rand(num_tasks, num_classes, num_samples, generator=generator).argsort(2)
    drawn = features[classes[:, :, None], order[:, :, : shots + num_queries]]
    labels = torch.arange(num_classes)[None, :, None].expand(drawn.shape[:3])
    return Tasks(
        support=drawn[:, :, :shots].flatten(1, 2),
        target=labels[:, :, :shots].flatten(1),
        query=drawn[:, :, shots:].flatten(1, 2),
        answer=labels[:, :, shots:].flatten(1),
    )
