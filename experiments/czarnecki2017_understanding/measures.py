"""What is looked at once a network has been trained?

A dictionary of numbers per job, as it stands in results.jsonl. Letters: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import (
    GradientSource,
    Signal,
    class_contrast,
    compare_dissimilarities,
    dissimilarity,
    fit_linear_probe,
    linear_probe_accuracy,
)
from experiments.czarnecki2017_understanding.config import Deep, Job, Small, Toy, digits, hidden_blocks
from experiments.czarnecki2017_understanding.surface import (
    explained,
    implied_surface,
    slice_directions,
    true_surface,
)
from experiments.czarnecki2017_understanding.toys import toy
from pipeline import prepare, run_simulated
from pipeline.executors.executor import OnStatus, unseen

__all__ = ["class_dissimilarity", "measure"]

_NUM_ANSWERS = 64
"""Samples on which the answers of two networks are compared."""
_NUM_RSA = 500
"""Test samples whose representations are compared."""
_NUM_PROBE = (5_000, 2_000)
"""Training samples that a linear probe is fitted on, and test samples that it is tested on."""
SIDE = torch.linspace(-3.0, 3.0, 13)
"""Of a slice, in standard deviations of h."""
_NEAR = slice(4, 9)
"""The part of a side within one standard deviation."""


def measure(job: Job, *, on_status: OnStatus = unseen) -> dict[str, Any]:
    """Train a network and look at it."""
    prepared = prepare(job.config())
    before = _toy_loss(job, list(prepared.cut.stages)) if isinstance(job, Toy) else None
    result = run_simulated(prepared, on_status=on_status)
    stages = list(prepared.cut.stages)
    for stage in stages:
        stage.eval()
    found: dict[str, Any] = {
        "test_loss": result.summary["test_loss"],
        "test_error": result.summary["test_error"],
        "train_loss": result.summary["train_loss"],
        "probes": [_rounded(stage["probe"]) for stage in result.summary["stages"][:-1]],
        "wall_s": result.summary["wall_s"],
    }
    with torch.no_grad():
        match job:
            case Toy():
                found |= _toy(job, stages, prepared.sources[0]) | {"first_loss": before}
            case Deep():
                found |= _deep(stages)
            case Small():
                found |= _small(job, stages)
    return found


def class_dissimilarity(matrix: Tensor, target: Tensor, *, num_classes: int) -> Tensor:
    """The mean dissimilarity of a sample of one class and one of another, or of two of the same, (K, K).

    Args:
        matrix: (N, N), 0 on the diagonal.
        target: labels, (N,); at least two samples of each class.
        num_classes: K.
    """
    members = F.one_hot(target, num_classes).to(matrix)
    counts = members.sum(0)
    pairs = counts[:, None] * counts[None, :] - counts.diag()  # no sample beside itself
    return members.T @ matrix @ members / pairs


def _toy(job: Toy, stages: list[nn.Module], source: GradientSource) -> dict[str, Any]:
    x, target = toy(job.data, num_dims=job.num_dims, seed=job.seed)
    y = stages[1](stages[0](x))
    answers = y[:, 1] if job.loss == "mse" else torch.softmax(y, dim=1)[:, 1]
    found: dict[str, Any] = {
        "last_loss": _toy_loss(job, stages),
        "answers": [round(value, 5) for value in answers[:_NUM_ANSWERS].tolist()],
    }
    if job.data == "blobs" and job.num_dims == 2 and job.method != "bp":
        found["surface"] = _surface(job, stages, source, x, target)
    return found


def _toy_loss(job: Toy, stages: list[nn.Module]) -> float:
    """Per sample, of the whole set."""
    x, target = toy(job.data, num_dims=job.num_dims, seed=job.seed)
    with torch.no_grad():
        return _loss_above(job, stages[1], target)(stages[0](x)).item() / len(x)


def _loss_above(job: Toy, above: nn.Module, target: Tensor) -> Callable[[Tensor], Tensor]:
    """Of h, summed over the samples."""
    loss = job.config().loss if job.loss == "mse" else nn.CrossEntropyLoss(reduction="sum")
    return lambda h: loss(above(h), target)  # type: ignore[no-any-return]


def _surface(job: Toy, stages: list[nn.Module], source: GradientSource, x: Tensor, target: Tensor) -> dict[str, Any]:
    h = stages[0](x)

    def estimate(moved: Tensor) -> Tensor:
        gradient = source.estimate(moved, Signal(step=0, target=target))
        assert isinstance(gradient, Tensor)
        return gradient

    directions = slice_directions(h, target)
    true = true_surface(_loss_above(job, stages[1], target), h, directions=directions, side=SIDE)
    implied = implied_surface(estimate, h, directions=directions, side=SIDE)
    return {
        "true": _rows(true),
        "implied": _rows(implied),
        "explained": explained(implied, true),
        "explained_near": explained(implied[_NEAR, _NEAR], true[_NEAR, _NEAR]),
    }


def _deep(stages: list[nn.Module]) -> dict[str, Any]:
    """Of every hidden layer: the geometry of its representations, and what a linear probe reads from it."""
    data, (num_fit, num_test) = digits(), _NUM_PROBE
    blocks = hidden_blocks(stages)
    layers = [_through(blocks, x) for x in (data.train_x[:num_fit], data.test_x[:num_test], data.test_x[:_NUM_RSA])]
    accuracies, matrices = [], []
    for fit, test, shown in zip(*layers, strict=True):
        probe = fit_linear_probe(fit, data.train_y[:num_fit], num_classes=10)
        accuracies.append(round(linear_probe_accuracy(probe, test, data.test_y[:num_test]), 5))
        matrices.append(dissimilarity(shown))
    target = data.test_y[:_NUM_RSA]
    return {
        "probe_accuracy": accuracies,
        "contrast": [round(class_contrast(matrix, target), 5) for matrix in matrices],
        "dissimilarity": [_rows(class_dissimilarity(matrix, target, num_classes=10), 3) for matrix in matrices],
        "next_layer": [round(compare_dissimilarities(a, b), 4) for a, b in pairwise(matrices)],
    }


def _small(job: Small, stages: list[nn.Module]) -> dict[str, Any]:
    """The error on the training labels as they were given, and as they are right."""
    data = job.config().data().train
    y = nn.Sequential(*stages)(data.x)
    said = y.argmax(1)
    right = digits().train_y[: job.num_samples]
    return {
        "given_error": said.ne(data.target).double().mean().item(),
        "right_error": said.ne(right).double().mean().item(),
    }


def _through(blocks: list[nn.Module], x: Tensor) -> list[Tensor]:
    """The output of every block."""
    found = []
    for block in blocks:
        x = block(x)
        found.append(x)
    return found


def _rows(matrix: Tensor, digits: int = 5) -> list[list[float]]:
    return [[round(value, digits) for value in row] for row in matrix.tolist()]


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 5) for name, value in values.items()}
