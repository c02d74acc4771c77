"""How is a few-shot classifier trained, and how well does it do on tasks it has not seen?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dni import FewShotClassifier
from experiments.hu2020_sib.config import Row, Settings
from experiments.hu2020_sib.tasks import Tasks, draw_tasks
from pipeline.randomness.keyed import generator, key

__all__ = ["Outcome", "evaluate", "gradient_cosine", "half_width", "train_classifier"]

_AT_ONCE = 100
"""Tasks evaluated together."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A classifier on some tasks."""

    accuracy: Tensor
    """Of each task, (T,), a fraction of its queries."""
    cosine: Tensor
    """Of each task, (T,): `gradient_cosine`."""


def train_classifier(
    features: Tensor,
    *,
    row: Row,
    step_rate: float,
    seed: int,
    settings: Settings,
    on_loss: Callable[[float], None] = lambda loss: None,
) -> FewShotClassifier:
    """A classifier whose w, s, b and ξ minimise the queries' cross-entropy after the K steps, over training tasks.

    The tasks and ξ's initial weights depend on the seed and the shots only, not on K and η.

    Args:
        features: of the training characters, (characters, 20, F).
        row: shots and K.
        step_rate: η.
        seed: of ξ and of the tasks.
        settings: rates and sizes.
        on_loss: hears the loss of each batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "classifier", 0))
        classifier = FewShotClassifier(features.shape[2], settings.num_classes, num_steps=row.num_steps, rate=step_rate)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=settings.rate)
    for batch in range(settings.batches):
        tasks = _tasks(features, "train", batch, num_tasks=settings.tasks_per_batch, row=row, seed=seed, of=settings)
        optimizer.zero_grad()
        logits = classifier(tasks.support, tasks.target, tasks.query)
        loss = F.cross_entropy(logits.flatten(0, 1), tasks.answer.flatten())
        loss.backward()
        optimizer.step()
        on_loss(loss.item())
    return classifier


def evaluate(
    classifier: FewShotClassifier,
    features: Tensor,
    name: str,
    *,
    num_tasks: int,
    row: Row,
    seed: int,
    settings: Settings,
) -> Outcome:
    """The classifier on tasks of `name`, the same for every classifier with the same shots and seed."""
    accuracies, cosines = [], []
    for start in range(0, num_tasks, _AT_ONCE):
        number = min(_AT_ONCE, num_tasks - start)
        tasks = _tasks(features, name, start, num_tasks=number, row=row, seed=seed, of=settings)
        with torch.no_grad():
            logits = classifier(tasks.support, tasks.target, tasks.query)
            accuracies.append((logits.argmax(2) == tasks.answer).float().mean(1))
            cosines.append(gradient_cosine(classifier, tasks))
    return Outcome(accuracy=torch.cat(accuracies), cosine=torch.cat(cosines))


def gradient_cosine(classifier: FewShotClassifier, tasks: Tasks) -> Tensor:
    """Cosine of the weights' synthetic gradient with that of the queries' true loss, at θ⁰; (T,)."""
    weights = classifier.initial_weights(tasks.support, tasks.target)
    logits = classifier.logits(weights, tasks.query)
    true = F.softmax(logits, 2) - F.one_hot(tasks.answer, classifier.num_classes)
    synthetic = classifier.synthesizer(logits)
    used, wanted = (classifier.pull_back(error, weights, tasks.query).flatten(1) for error in (synthetic, true))
    return F.cosine_similarity(used, wanted)


def half_width(values: Tensor) -> float:
    """Half of the 95 % confidence interval of the mean over tasks, (T,)."""
    return 1.96 * (values.std() / len(values) ** 0.5).item() if len(values) > 1 else float("nan")


def _tasks(features: Tensor, name: str, step: int, *, num_tasks: int, row: Row, seed: int, of: Settings) -> Tasks:
    return draw_tasks(
        features,
        num_tasks=num_tasks,
        num_classes=of.num_classes,
        shots=row.shots,
        num_queries=of.num_queries,
        generator=generator(seed, f"{name} {row.shots}", step),
    )
