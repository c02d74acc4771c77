"""How well can a linear map read the class from each layer? Fitted, chosen and tested on samples of their own.

`RidgeProbes` keeps a covariance of what it fits on, and `LogisticProbes` all samples; both keep those to choose and to
test on. Letters: F features of a layer, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dni.measures.held_rows import HeldRows, ProbeShares
from dni.measures.layer_measure import check_nonempty, check_same_widths, labels_of, rows_by_name
from dni.measures.logistic import fit_logistic_probe
from dni.measures.moments import Moments
from dni.measures.rank import check_width
from dni.measures.representations import linear_probe_accuracy

__all__ = ["LinearProbe", "LogisticProbes", "RidgeProbes"]


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """What was read from one layer."""

    weight: Tensor
    """(F + 1, C), float64; the last row is the bias."""
    ridge: float
    """The penalty that was chosen."""
    chosen_loss: float
    """Per sample, on those it was chosen on: squared error or cross entropy."""
    accuracy: float
    """On the samples to test on, which had no part in fitting or choosing."""


class RidgeProbes:
    """The least-squares map from each layer to one-hot labels, as `fit_linear_probe`, with its penalty chosen.

    Fitted in closed form for all penalties at once, from the covariance of features and labels; the penalty with the
    least squared error on the samples to choose on is taken.

    Args:
        num_classes: C.
        ridges: penalties to choose from, relative to the mean variance of a feature, each greater than 0.
        shares: which samples are for what.
        max_features: F may be at most this; a covariance takes 8 (F + C)² bytes.

    Raises:
        ValueError: there is no penalty, or one that is not greater than 0.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ridges: Sequence[float] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        shares: ProbeShares | None = None,
        max_features: int = 4096,
    ) -> None:
        _check(num_classes, ridges)
        self._num_classes, self._ridges = num_classes, tuple(ridges)
        self._shares, self._max_features = shares or ProbeShares(), max_features
        self._count = 0
        self._widths: dict[str, int] = {}
        self._fit: dict[str, Moments] = {}
        self._choose, self._test = HeldRows(), HeldRows()

    def update(self, features: Mapping[str, Tensor], target: Tensor | None = None) -> None:
        """Take in a minibatch and its labels, (n,).

        Raises:
            ValueError: as `LayerMeasure.update`; or labels are missing or no classes, or a layer has too many features.
        """
        rows, labels = _taken(features, target, self._widths, num_classes=self._num_classes, measure=self)
        for name, h in rows.items():
            check_width(name, h.shape[1], self._max_features)
        parts = self._shares.cut(self._count, len(labels))
        wanted = F.one_hot(labels[parts["fit"].to(labels.device)], self._num_classes).double()
        for name, h in rows.items():
            moments = self._fit.setdefault(name, Moments())
            if len(wanted):
                moments.add(torch.cat([h[parts["fit"].to(h.device)], wanted.to(h.device)], dim=1))
        self._choose.add(features, labels, parts["choose"])
        self._test.add(features, labels, parts["test"])
        self._widths = {name: h.shape[1] for name, h in rows.items()}
        self._count += len(labels)

    def result(self) -> dict[str, LinearProbe]:
        """By layer.

        Raises:
            ValueError: too few samples were seen for each part to have one.
        """
        check_nonempty(self._count, self)
        _check_parts(min(own.count for own in self._fit.values()), self._choose, self._test)
        return {
            name: _chosen(self._fitted(own), *self._choose.of(name), self._test.of(name), _squared_error)
            for name, own in self._fit.items()
        }

    def _fitted(self, moments: Moments) -> Iterable[tuple[float, Tensor]]:
        count = len(moments.mean) - self._num_classes
        mean_h, mean_y = moments.mean[:count], moments.mean[count:]
        covariance = moments.scatter / moments.count
        variances, axes = torch.linalg.eigh(covariance[:count, :count])
        shared = axes.T @ covariance[:count, count:]
        scale = covariance.diagonal()[:count].mean().clamp_min(torch.finfo(torch.float64).tiny)
        for ridge in self._ridges:
            weight = axes @ (shared / (variances.clamp_min(0.0) + ridge * scale)[:, None])
            yield ridge, torch.cat([weight, (mean_y - mean_h @ weight)[None]])

    def state_dict(self) -> dict[str, Any]:
        """Moments, and the samples kept."""
        return {
            "count": self._count,
            "widths": dict(self._widths),
            "fit": {name: own.state_dict() for name, own in self._fit.items()},
            "choose": self._choose.state_dict(),
            "test": self._test.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._count, self._widths = int(state["count"]), dict(state["widths"])
        self._fit = {name: Moments() for name in state["fit"]}
        for name, own in self._fit.items():
            own.load_state_dict(state["fit"][name])
        self._choose.load_state_dict(state["choose"])
        self._test.load_state_dict(state["test"])


class LogisticProbes:
    """The logistic regression from each layer, as `fit_logistic_probe`, with its penalty chosen by cross entropy.

    Args:
        num_classes: C.
        ridges: penalties to choose from, relative to the mean variance of a feature, each greater than 0.
        shares: which samples are for what.

    Raises:
        ValueError: there is no penalty, or one that is not greater than 0.
    """

    def __init__(
        self, num_classes: int, *, ridges: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1), shares: ProbeShares | None = None
    ) -> None:
        _check(num_classes, ridges)
        self._num_classes, self._ridges = num_classes, tuple(sorted(ridges, reverse=True))
        self._shares = shares or ProbeShares()
        self._count = 0
        self._widths: dict[str, int] = {}
        self._held = {part: HeldRows() for part in ("fit", "choose", "test")}

    def update(self, features: Mapping[str, Tensor], target: Tensor | None = None) -> None:
        """Take in a minibatch and its labels, (n,).

        Raises:
            ValueError: as `LayerMeasure.update`; or labels are missing or no classes.
        """
        rows, labels = _taken(features, target, self._widths, num_classes=self._num_classes, measure=self)
        for part, at in self._shares.cut(self._count, len(labels)).items():
            self._held[part].add(features, labels, at)
        self._widths = {name: h.shape[1] for name, h in rows.items()}
        self._count += len(labels)

    def result(self) -> dict[str, LinearProbe]:
        """By layer; each is fitted now.

        Raises:
            ValueError: too few samples were seen for each part to have one.
        """
        check_nonempty(self._count, self)
        fit, choose, test = self._held["fit"], self._held["choose"], self._held["test"]
        _check_parts(fit.count, choose, test)
        return {
            name: _chosen(self._fitted(*fit.of(name)), *choose.of(name), test.of(name), _cross_entropy)
            for name in self._widths
        }

    def _fitted(self, h: Tensor, labels: Tensor) -> Iterable[tuple[float, Tensor]]:
        weight: Tensor | None = None
        for ridge in self._ridges:  # from the strongest on, each beginning where the one before ended
            weight = fit_logistic_probe(h, labels, num_classes=self._num_classes, ridge=ridge, start=weight)
            yield ridge, weight

    def state_dict(self) -> dict[str, Any]:
        """The samples kept."""
        held = {part: own.state_dict() for part, own in self._held.items()}
        return {"count": self._count, "widths": dict(self._widths), "held": held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._count, self._widths = int(state["count"]), dict(state["widths"])
        for part, own in self._held.items():
            own.load_state_dict(state["held"][part])


def _taken(
    features: Mapping[str, Tensor],
    target: Tensor | None,
    widths: Mapping[str, int],
    *,
    num_classes: int,
    measure: object,
) -> tuple[dict[str, Tensor], Tensor]:
    rows = rows_by_name(features)
    check_same_widths(rows, widths)
    count = len(next(iter(rows.values())))
    return rows, labels_of(target, num_samples=count, num_classes=num_classes, measure=measure)


def _chosen(
    probes: Iterable[tuple[float, Tensor]],
    h: Tensor,
    labels: Tensor,
    test: tuple[Tensor, Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> LinearProbe:
    """The probe of least loss; of equals, the first."""
    tried = [(float(loss(h @ weight[:-1] + weight[-1], labels)), ridge, weight) for ridge, weight in probes]
    least, ridge, weight = min(tried, key=lambda each: each[0])
    return LinearProbe(
        weight=weight, ridge=ridge, chosen_loss=least, accuracy=linear_probe_accuracy(weight, test[0], test[1])
    )


def _squared_error(said: Tensor, labels: Tensor) -> Tensor:
    return (said - F.one_hot(labels, said.shape[1])).square().sum(1).mean()


def _cross_entropy(said: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(said, labels)


def _check(num_classes: int, ridges: Sequence[float]) -> None:
    if num_classes < 2 or not ridges or not min(ridges) > 0:
        raise ValueError(
            f"a probe must have at least 2 classes and a penalty greater than 0, got {num_classes} and {tuple(ridges)}."
        )


def _check_parts(num_fit: int, choose: HeldRows, test: HeldRows) -> None:
    if not (num_fit and choose.count and test.count):
        raise ValueError(
            f"a probe needs samples to fit, to choose and to test on, got {num_fit}, {choose.count} and {test.count}. "
            "Show it more samples, or set other shares."
        )
