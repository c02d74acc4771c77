"""How much do gradient estimates of B samples scatter, and what do they scatter about?

Of each B, up to ten estimates of disjoint samples. The loss is a mean over samples and no sample sees another, so an
estimate of 2B samples is the mean of two of B, and the mean over all samples is E ĝ, and for the true gradient g*.
Source: Ilyas et al. 2020 (arXiv 1811.02553), figures 1 and 2. Differs: estimates share no samples, so of the largest B
there are fewer; the truth is exact on the training set.

Letters: B samples of an estimate, P estimates, D parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from dni import agreement, mean_pairwise_cosine
from experiments.landscape.config import NUM_STAGES, Settings
from experiments.landscape.frozen import Frozen, stage_of

__all__ = ["Estimates", "estimate_all", "summarise_estimates"]

Point = Mapping[str, Tensor]
_CHUNK = 4096
"""Most samples that are run at once."""


class Estimates:
    """Estimates of one gradient.

    Args:
        gradient: the mean gradient of a batch, by name, of the rows that it is given.
        num_samples: there are.
        settings: which B, and how many of each.
    """

    def __init__(self, gradient: Callable[[Tensor], Point], num_samples: int, settings: Settings) -> None:
        self._gradient, self._num_samples, self._next = gradient, num_samples, 0
        self.whole: Point = {}
        """Of all samples."""
        self.by_size: dict[int, list[Point]] = {}
        """The estimates by B."""
        for size in settings.batch_sizes:
            smaller = self.by_size.get(size // 2, [])
            joined = [_weighted(pair, (0.5, 0.5)) for pair in zip(smaller[::2], smaller[1::2], strict=False)]
            room = (num_samples - self._next) // size
            new = [self._take(size) for _ in range(min(room, settings.num_estimates - len(joined)))]
            self.by_size[size] = joined + new
        self._take(num_samples - self._next)

    def _take(self, size: int) -> Point:
        """Of the next samples."""
        first, self._next = self._next, self._next + size
        chunks = [chunk for chunk in torch.arange(first, self._next).split(_CHUNK) if len(chunk)]
        if not chunks:
            return {}
        found = _weighted([self._gradient(chunk) for chunk in chunks], [len(chunk) / size for chunk in chunks])
        share = size / self._num_samples
        self.whole = _weighted([self.whole, found], [1.0, share]) if self.whole else _weighted([found], [share])
        return found


def estimate_all(frozen: Frozen, x: Tensor, target: Tensor, settings: Settings) -> tuple[Estimates, Estimates]:
    """Estimates of the used gradient and of the true one, of the same samples in the same order."""
    order = torch.randperm(len(x), generator=frozen.draw("estimates"))
    point = frozen.point

    def used(rows: Tensor) -> Point:
        return frozen.used_gradient([(x[order[rows]], target[order[rows]])])(point)

    def true(rows: Tensor) -> Point:
        return frozen.true_loss([(x[order[rows]], target[order[rows]])]).gradient(point)

    return Estimates(used, len(x), settings), Estimates(true, len(x), settings)


def summarise_estimates(used: Estimates, true: Estimates) -> list[dict[str, object]]:
    """By part of the network: each stage, all stages below the last, and all of them.

    Returns:
        For each part: its name, `cosine`, `norm_ratio`, `projection` and `relative_error` of E ĝ against g*, and by B
        (as text) `used_pairwise`, `true_pairwise` (mean cosine of two estimates), `used_to_truth`, `true_to_truth`
        (mean cosine with g*), `used_to_true` (with the true gradient of the same samples).
    """
    last = NUM_STAGES - 1
    parts: dict[str, Sequence[int]] = {f"stage {index}": (index,) for index in range(NUM_STAGES)}
    parts |= {"below the last": range(last), "all": range(NUM_STAGES)}
    found = []
    for part, stages in parts.items():
        whole_used, whole_true = _vector(used.whole, stages), _vector(true.whole, stages)
        row: dict[str, object] = {"part": part, **agreement([whole_used], [whole_true])}
        for size in used.by_size:
            ours = torch.stack([_vector(each, stages) for each in used.by_size[size]])
            theirs = torch.stack([_vector(each, stages) for each in true.by_size[size]])
            row[str(size)] = {
                "used_pairwise": mean_pairwise_cosine(ours),
                "true_pairwise": mean_pairwise_cosine(theirs),
                "used_to_truth": _mean_cosine(ours, whole_true.expand_as(ours)),
                "true_to_truth": _mean_cosine(theirs, whole_true.expand_as(theirs)),
                "used_to_true": _mean_cosine(ours, theirs),
            }
        found.append(row)
    return found


def _mean_cosine(ours: Tensor, theirs: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(ours.double(), theirs.double(), dim=1).mean().item()


def _vector(point: Point, stages: Sequence[int]) -> Tensor:
    """The tensors of some stages as one vector, always in the same order."""
    return torch.cat([point[name].flatten() for name in sorted(point) if stage_of(name) in stages])


def _weighted(points: Sequence[Point], weights: Sequence[float]) -> Point:
    return {name: torch.stack([w * p[name] for p, w in zip(points, weights, strict=True)]).sum(0) for name in points[0]}
