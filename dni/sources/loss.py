"""What is the loss summed over samples, and that of each, for a loss that the user wrote as a mean?

Gradients across boundaries are per sample, so every loss is brought to the form sum over n of L_n. A mean is
N times smaller than the sum; which of the two a loss is, its `reduction` says, or the first real batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dni.members import Members, map_members, num_samples

__all__ = ["PerSampleLoss", "SummedLoss", "split_over_samples", "sum_over_samples"]

SummedLoss: TypeAlias = Callable[[Members, Tensor | None], Tensor]
"""(output, target) -> the loss summed over the N samples, a scalar."""

PerSampleLoss: TypeAlias = Callable[[Members, Tensor | None], Tensor]
"""(output, target) -> the loss of each sample, (N,)."""


def sum_over_samples(loss: Any, h: Members, target: Tensor | None) -> SummedLoss:
    """The loss in its form summed over samples.

    `reduction="sum"` is taken as it is, `"batchmean"` becomes it, and `"none"` is summed. For `"mean"` the
    same module with `"sum"` is used where it averages over exactly the N samples (bit-equal to a loop that
    sums), and N times the mean where it averages over something else (elements, tokens, class weights), which
    keeps the user's own weighting of the samples. Without a `reduction`, the batch is evaluated as it is and
    doubled: a sum doubles, a mean stays.

    Args:
        loss: the user's loss, a callable of (output, target).
        h: the network's output for a real batch, (N, ...).
        target: its labels, (N, ...).

    Raises:
        ValueError: the loss is neither; the message shows the two values.
    """
    reduction = getattr(loss, "reduction", None)
    with torch.no_grad():
        if reduction is None:
            reduction = _probe_reduction(loss, h, target)
        elif reduction == "batchmean" or (reduction == "mean" and _averages_over_samples(loss, h, target)):
            loss, reduction = _with_sum(loss), "sum"
    match reduction:
        case "sum":
            return partial(_sum, loss)
        case "none":
            return partial(_sum_of_values, loss)
        case "mean":
            return partial(_sum_of_mean, loss)
    raise ValueError(f"a loss's reduction must be 'sum', 'mean', 'batchmean' or 'none', got {reduction!r}.")


def split_over_samples(loss: Any, h: Members, target: Tensor | None) -> PerSampleLoss:
    """The loss of each sample; they add up to the loss summed over the microbatch.

    A loss with a `reduction` is asked for its values unreduced. Any other is evaluated sample by sample, which takes
    N evaluations.

    Args:
        loss: the user's loss, a callable of (output, target).
        h: the network's output for a real batch, (N, ...).
        target: its labels, (N, ...).

    Raises:
        ValueError: as `sum_over_samples`.
    """
    summed = sum_over_samples(loss, h, target)
    if hasattr(loss, "reduction"):
        unreduced = copy.deepcopy(loss)
        unreduced.reduction = "none"
        values = unreduced(h, target)
        if values.dim() > 0 and values.shape[0] == num_samples(h):
            return partial(_shares, unreduced, summed)
    return partial(_one_by_one, summed)


# Functions, not lambdas: what holds them is copied and pickled together with its loss.
def _sum(loss: Any, h: Members, target: Tensor | None) -> Tensor:
    return loss(h, target)  # type: ignore[no-any-return]


def _sum_of_values(loss: Any, h: Members, target: Tensor | None) -> Tensor:
    return loss(h, target).sum()  # type: ignore[no-any-return]


def _sum_of_mean(loss: Any, h: Members, target: Tensor | None) -> Tensor:
    return loss(h, target) * num_samples(h)  # type: ignore[no-any-return]


def _shares(unreduced: Any, summed: SummedLoss, h: Members, target: Tensor | None) -> Tensor:
    """A sample's values, in the scale in which all of them add up to the summed loss."""
    values: Tensor = unreduced(h, target)
    values = values.flatten(1).sum(dim=1) if values.dim() > 1 else values
    total = values.sum()
    return values * (summed(h, target) / total) if total != 0.0 else values


def _one_by_one(summed: SummedLoss, h: Members, target: Tensor | None) -> Tensor:
    def sample(n: int) -> Tensor:
        return summed(map_members(lambda member: member[n : n + 1], h), None if target is None else target[n : n + 1])

    return torch.stack([sample(n) for n in range(num_samples(h))])


def _with_sum(loss: Any) -> Any:
    summing = copy.deepcopy(loss)
    summing.reduction = "sum"
    return summing


def _averages_over_samples(loss: Any, h: Members, target: Tensor | None) -> bool:
    """Whether the mean is the sum divided by N: not over elements, tokens or class weights."""
    if not isinstance(loss, nn.Module) or getattr(loss, "weight", None) is not None:
        return False
    if target is not None and target.dim() > 1 and not target.is_floating_point():
        return False  # token labels: how many are ignored changes from batch to batch
    total, mean = float(_with_sum(loss)(h, target)), float(loss(h, target))
    # A loss of exactly zero tells nothing; N times the mean is right for either.
    return total != 0.0 and abs(total - num_samples(h) * mean) <= 1e-4 * abs(total)


def _probe_reduction(loss: Any, h: Members, target: Tensor | None) -> str:
    once = loss(h, target)
    if once.dim() > 0:
        if once.shape[0] != num_samples(h):
            raise ValueError(
                f"the loss must return a scalar or one value per sample ({num_samples(h)}), "
                f"got shape {tuple(once.shape)}."
            )
        return "none"
    twice = loss(map_members(_doubled, h), None if target is None else _doubled(target))
    a, b = float(once), float(twice)
    if abs(b - a) <= 1e-3 * abs(a):
        return "mean"
    if abs(b - 2 * a) <= 1e-3 * abs(2 * a):
        return "sum"
    raise ValueError(
        "the loss must be a sum or a mean over the samples of a batch: on the first batch it is "
        f"{a:.6g}, on the same batch twice over {b:.6g} (a mean stays, a sum doubles). "
        "Give the loss an attribute `reduction` of 'sum' or 'mean', or return one value per sample."
    )


def _doubled(tensor: Tensor) -> Tensor:
    return torch.cat([tensor, tensor])
