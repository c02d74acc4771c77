"""What do all measures of representations have in common?

They are told of the outputs of layers, by name, minibatch by minibatch, and say at the end what they found:

    measure.update({"stage 0": h0, "stage 1": h1}, target)      # as often as there are minibatches
    measure.result()

Everything is added up in 64 bits on the device of the features, and nothing of a graph is kept. Features of N samples
are (N, *F), each sample's F numbers one vector; where that is too wide, `mean_over_positions` makes it the channels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

__all__ = [
    "LayerMeasure",
    "check_nonempty",
    "check_same_names",
    "check_same_widths",
    "labels_of",
    "mean_over_positions",
    "rows_by_name",
]

ResultT_co = TypeVar("ResultT_co", covariant=True)


@runtime_checkable
class LayerMeasure(Protocol[ResultT_co]):
    """Looks at the outputs of layers, minibatch by minibatch."""

    def update(self, features: Mapping[str, Tensor], target: Tensor | None = None) -> None:
        """Take in a minibatch: features by the layer's name, (N, *F) each, and the labels, (N,), where it needs them.

        Raises:
            ValueError: the layers are not those of the first minibatch, do not agree in N, or hold what is not finite.
        """

    def result(self) -> ResultT_co:
        """What was found in all minibatches so far; more may follow."""

    def state_dict(self) -> dict[str, Any]:
        """All that was taken in."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""


def mean_over_positions(h: Tensor, *, axis: int = 1) -> Tensor:
    """(N, C), the mean of each channel over all positions, for a layer whose features are too many to compare.

    Args:
        h: (N, C, positions...); or tokens (N, T, C) with `axis` -1.
        axis: of C; not 0.
    """
    return h.detach().movedim(axis, 1).flatten(2).mean(2) if h.dim() > 2 else h.detach()


def rows_by_name(features: Mapping[str, Tensor], *, what: str = "features") -> dict[str, Tensor]:
    """(N, F) of each layer, float64, without a graph.

    Raises:
        ValueError: there is no layer or no sample, a layer is no floating-point tensor of (N, ...), two differ in N, or
            a number is not finite.
    """
    if not features:
        raise ValueError(f"{what} must be of at least one layer, found none. Give outputs of layers by name.")
    first, rows = next(iter(features)), {}
    for name, h in features.items():
        if h.dim() < 2 or not h.is_floating_point() or not h.numel():
            raise ValueError(
                f"{what} of {name} must be floating point (N, F), at least one of each, got {h.dtype} "
                f"{tuple(h.shape)}. Give what a layer puts out for a whole minibatch."
            )
        if len(h) != len(features[first]):
            raise ValueError(
                f"{what} must be of the same samples, got {len(features[first])} of {first} and {len(h)} of {name}. "
                "Take all layers from the same minibatch."
            )
        rows[name] = h.detach().reshape(len(h), -1).double()
        if not bool(rows[name].isfinite().all()):
            bad = rows[name].numel() - int(rows[name].isfinite().sum())
            raise ValueError(
                f"{what} of {name} must be finite, found {bad} of {rows[name].numel()} numbers that are not. Has the "
                "run diverged? Leave this layer out, or look at an earlier checkpoint."
            )
    return rows


def check_same_names(found: Collection[str], expected: Collection[str], *, what: str = "features") -> None:
    """Raise `ValueError` unless the layers of a minibatch are those of the minibatches before."""
    if set(found) != set(expected):
        missing, new = (sorted(set(a) - set(b)) for a, b in ((expected, found), (found, expected)))
        raise ValueError(
            f"{what} must be of the same layers at every update, {', '.join(expected) or 'none'}; missing "
            f"{', '.join(missing) or 'none'}, new {', '.join(new) or 'none'}. Begin a new measure for other layers."
        )


def check_same_widths(rows: Mapping[str, Tensor], widths: Mapping[str, int]) -> None:
    """Raise `ValueError` unless a minibatch is of the same layers as before, of the same F; {}: nothing came before."""
    if not widths:
        return
    check_same_names(rows, widths)
    for name, h in rows.items():
        if h.shape[1] != widths[name]:
            raise ValueError(
                f"{name} must keep its {widths[name]} features, got {h.shape[1]}. Begin a new measure after the "
                "structure of a layer has changed."
            )


def check_nonempty(count: int, measure: object) -> None:
    """Raise `ValueError` if a measure has seen nothing."""
    if not count:
        raise ValueError(
            f"{type(measure).__name__} must have seen at least one minibatch to have a result, found none. Call "
            "update() first."
        )


def labels_of(target: Tensor | None, *, num_samples: int, num_classes: int, measure: object) -> Tensor:
    """The labels that a measure cannot do without, (N,), int64.

    Raises:
        ValueError: there are none, they are not of the samples, or one lies outside [0, num_classes).
    """
    name = type(measure).__name__
    if target is None or target.shape != (num_samples,) or target.is_floating_point():
        found = "none" if target is None else f"{target.dtype} {tuple(target.shape)}"
        raise ValueError(
            f"{name} needs a label for each of {num_samples} samples, integers of ({num_samples},), got {found}. Give "
            "the target with the features."
        )
    labels = target.detach().long()
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"the labels given to {name} must lie in [0, {num_classes}), found {int(labels.min())} to "
            f"{int(labels.max())}. Give it the number of classes."
        )
    return labels
