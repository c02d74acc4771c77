"""How does a synthesizer see the labels?

Letters: N samples, T tokens, C channels, F features, K numbers per label.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.members import Members, carriers

__all__ = ["LabelContext", "any_labels", "check_labels"]


class LabelContext(nn.Module):
    """Class labels, laid out so that they can stand beside h on its feature axis.

    A label becomes K numbers: its one-hot, or a row of a learned table. They are placed by the shape of h:

        h (N, F)        target (N,)              ->  (N, K)
        h (N, T, C)     target (N,) or (N, T)    ->  (N, T, K), a label of the sample repeated at every token
        h (N, C, H, W)  target (N,)              ->  (N, K, H, W), K constant feature maps

    Source: Jaderberg et al. 2017, section 3.1 (cDNI). Differs: tokens and learned embeddings are ours.

    Args:
        num_classes: labels lie in [0, num_classes).
        embedding_dim: K of a learned table of labels, for vocabularies too large for one-hots; None: one-hot,
            K = num_classes.

    Raises:
        ValueError: `num_classes` or `embedding_dim` below 1.
    """

    def __init__(self, num_classes: int, *, embedding_dim: int | None = None) -> None:
        super().__init__()
        if num_classes < 1 or (embedding_dim is not None and embedding_dim < 1):
            raise ValueError(
                "num_classes and embedding_dim must be at least 1, "
                f"got num_classes {num_classes}, embedding_dim {embedding_dim}."
            )
        self.num_classes = num_classes
        self.embedding = None if embedding_dim is None else nn.Embedding(num_classes, embedding_dim)
        self.num_context = num_classes if embedding_dim is None else embedding_dim
        """K, the numbers that stand for one label."""

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        """The context of `target` for `h`, in h's dtype.

        Raises:
            ValueError: the labels are not integers, lie outside [0, num_classes), or do not match h's shape.
        """
        _check_kind(h, target, num_classes=self.num_classes)
        code = self._looked_up(h, target.long())
        if h.dim() == 2:
            return code
        if h.dim() == 3:
            return code if target.dim() == 2 else code[:, None, :].expand(-1, h.shape[1], -1)
        return code.view(*code.shape, *(1,) * (h.dim() - 2)).expand(-1, -1, *h.shape[2:])

    def _looked_up(self, h: Tensor, target: Tensor) -> Tensor:
        """The numbers of each label. On a CPU looking them up finds labels out of range; a GPU would stop for good."""
        if target.is_cuda:
            _check_range(target, num_classes=self.num_classes)
        try:
            if self.embedding is not None:
                return self.embedding(target)  # type: ignore[no-any-return]
            # F.one_hot would check the labels again and give integers.
            # Not h.new_zeros: where derivatives of many h are taken at once, that would make as many codes.
            code = torch.zeros((*target.shape, self.num_classes), dtype=h.dtype, device=h.device)
            return code.scatter_(-1, target.unsqueeze(-1), 1.0)
        except (IndexError, RuntimeError):
            _check_range(target, num_classes=self.num_classes)
            raise


def any_labels(h: Members) -> Tensor:
    """A label for each sample of `h`, (N,), to build with: class 0, which always exists."""
    member = next(iter(carriers(h)), torch.empty(0))
    return torch.zeros(member.shape[0], dtype=torch.long, device=member.device)


def check_labels(h: Tensor, target: Tensor, *, num_classes: int) -> None:
    """Refuse labels that are no classes in [0, num_classes), or not one per sample or token of `h`.

    Raises:
        ValueError: says which of it, and what was found.
    """
    _check_kind(h, target, num_classes=num_classes)
    _check_range(target, num_classes=num_classes)


def _check_kind(h: Tensor, target: Tensor, *, num_classes: int) -> None:
    if target.is_floating_point() or target.is_complex():
        raise ValueError(
            f"labels must be integers in [0, {num_classes}), got {target.dtype} of shape "
            f"{tuple(target.shape)}. Condition on class labels, or use SyntheticGradient."
        )
    per_token = h.dim() == 3 and target.shape == h.shape[:2]
    if target.shape != h.shape[:1] and not per_token:
        raise ValueError(
            f"labels must be one per sample ({h.shape[0]},), or (N, T) for an h of (N, T, C), got shape "
            f"{tuple(target.shape)} for an h of shape {tuple(h.shape)}. Use SyntheticGradient "
            "where the labels cannot stand beside h."
        )


def _check_range(target: Tensor, *, num_classes: int) -> None:
    lowest, highest = target.aminmax()
    if lowest.item() < 0 or highest.item() >= num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes}), got {int(lowest)} to {int(highest)} "
            f"in a target of shape {tuple(target.shape)}. Set num_classes to the number of classes, and "
            "give labels that the loss ignores (such as -100) a class of their own."
        )
