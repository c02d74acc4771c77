"""Do outputs of the same class look alike, and those of different classes not?

Letters: N samples, C channels, F features, K classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from dni.sources.unit_changes import AxisChanges, reads, within
from dni.structure.origin import Origin

__all__ = ["SimilarityMatching"]

_EPSILON = 1e-8
"""Length below which a vector counts as having no direction."""


class SimilarityMatching(nn.Module):
    """The distance between how alike a microbatch's outputs are and how alike its labels are.

    || S(f(h)) - S(onehot(y)) ||² / N, the paper's mean over the N² pairs, times N: summed over samples, as all losses
    here. S is the matrix of cosines of the centred rows, after images have become the standard deviations of their
    channels; f a learned linear map, for images a 3 x 3 convolution.
    Source: Nøkland and Eidnes 2019 (arXiv 1901.06656), "sim", and its code. Differs: a vector of length 0 has the
    similarity 0 and sends no gradient, where the code's square root has an infinite one.

    Args:
        h: an output, (N, F) or (N, C, H, W); only its shape is read.
        num_classes: K.

    Raises:
        ValueError: h is neither.
    """

    def __init__(self, h: Tensor, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        match h.dim():
            case 2:
                self.map: nn.Module = nn.Linear(h.shape[1], h.shape[1], bias=False)
            case 4:
                self.map = nn.Conv2d(h.shape[1], h.shape[1], 3, padding=1, bias=False)
            case _:
                raise ValueError(
                    f"similarity matching serves an h of (N, F) or (N, C, H, W), got shape {tuple(h.shape)}. "
                    "Set similarity_weight to 0."
                )

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        """f goes on to give as many numbers as it did: cosines are of all of them, and would change with them."""
        return within("map", reads(self.map, origin, h, remedy="set similarity_weight to 0"))

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        """The loss summed over samples, a scalar; `target` (N,)."""
        labels = F.one_hot(target.long(), self.num_classes).to(h.dtype)
        found, wanted = _cosines(_rows(self.map(h))), _cosines(labels)
        return F.mse_loss(found, wanted, reduction="sum") / h.shape[0]


def _rows(h: Tensor) -> Tensor:
    """(N, F), or images as (N, C); those with few channels or of one row of pixels as (N, C H W)."""
    if h.dim() == 4 and h.shape[1] > 3 and h.shape[2] > 1:
        return h.flatten(2).std(dim=2)
    return h.flatten(1)


def _cosines(rows: Tensor) -> Tensor:
    """(N, N): the cosine of each two rows, each less its own mean."""
    unit = F.normalize(rows - rows.mean(dim=1, keepdim=True), dim=1, eps=_EPSILON)
    return unit @ unit.T
