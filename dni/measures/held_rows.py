"""Which samples is a probe fitted on, which is its penalty chosen on, and which is it tested on?

Sample i, counted over all minibatches, goes by the fractional part of i φ, φ the golden ratio: so each part gets its
share of any stretch of samples, however it is cut into minibatches, and labels that come in turn meet no period.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["HeldRows", "ProbeShares"]

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, kw_only=True)
class ProbeShares:
    """Of the samples: the part that a probe's penalty is chosen on, and the part that it is tested on."""

    choose: float = 0.2
    """Of all samples, in (0, 1)."""
    test: float = 0.2
    """Likewise; `choose + test` is less than 1, and the rest is fitted on."""

    def __post_init__(self) -> None:
        if not (self.choose > 0 and self.test > 0 and self.choose + self.test < 1):
            raise ValueError(
                f"the shares to choose and to test on must be greater than 0 and leave some to fit on, got "
                f"{self.choose} and {self.test}."
            )

    def cut(self, start: int, count: int) -> dict[str, Tensor]:
        """fit, choose and test: which of the `count` samples from number `start` on, positions, int64."""
        place = torch.arange(start + 1, start + 1 + count, dtype=torch.float64).mul_(_GOLDEN).frac()
        chosen, tested = place < self.choose, place >= 1.0 - self.test
        masks = {"fit": ~(chosen | tested), "choose": chosen, "test": tested}
        return {part: mask.nonzero().flatten() for part, mask in masks.items()}


class HeldRows:
    """Features by layer and labels of some samples, kept as they are."""

    def __init__(self) -> None:
        self._features: dict[str, list[Tensor]] = {}
        self._labels: list[Tensor] = []

    def add(self, features: Mapping[str, Tensor], labels: Tensor, at: Tensor) -> None:
        """Keep the samples at these positions of a minibatch."""
        for name, h in features.items():
            self._features.setdefault(name, []).append(h.detach()[at.to(h.device)].flatten(1))
        self._labels.append(labels[at.to(labels.device)])

    @property
    def count(self) -> int:
        """Samples kept."""
        return sum(len(labels) for labels in self._labels)

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """(N, F), float64, and (N,), on the device of the layer's last minibatch."""
        parts = self._features[name]
        device = parts[-1].device
        rows = torch.cat([part.to(device).double() for part in parts])
        return rows, torch.cat([labels.to(device) for labels in self._labels])

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"features": {name: list(own) for name, own in self._features.items()}, "labels": list(self._labels)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._features = {name: list(own) for name, own in state["features"].items()}
        self._labels = list(state["labels"])
