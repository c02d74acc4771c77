"""Which single weights go, and stay at 0?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.events.plan import MaskPlan
from dni.events.targets import check_amount, check_held, check_names, kept_places, weights
from dni.events.view import Measure, StageView, with_gradients
from dni.pruning.importance import score_magnitude, score_movement, score_random
from dni.pruning.rewiring import Rewiring, TensorRewiring
from dni.pruning.selection import Amount, select_lowest
from dni.structure.keyed import Keyed

__all__ = ["LiftMasks", "PruneWeights"]


@dataclass(frozen=True, kw_only=True)
class PruneWeights:
    """Put the weights that are needed least to 0 and hold them there. Shapes stay as they are.

    Weights are parameters of two axes or more: neither biases nor norms. What has been pruned before does not count, so
    `Share(0.2)` at the end of each epoch leaves 0.8, 0.64, ...

    magnitude: |w|.
    movement: -w g of this update; Sanh et al. 2020 (arXiv 2005.07683) add it up over all updates.
    random: drawn.
    """

    amount: Amount
    """Of what is still there: of each tensor, or of all of them in the stage together."""
    layers: tuple[str, ...] | None = None
    """Whose weights; None: all of them."""
    by: Literal["magnitude", "movement", "random"] = "magnitude"
    """What is lowest where a weight is needed least."""
    scope: Literal["tensor", "stage"] = "tensor"
    """What is ranked together."""
    floor: int = 1
    """Weights of each tensor that stay at least."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        check_amount(self.amount)
        if self.floor < 1:
            raise ValueError(f"at least 1 weight of a tensor must stay, got a floor of {self.floor}.")
        if self.by not in ("magnitude", "movement", "random") or self.scope not in ("tensor", "stage"):
            raise ValueError(
                "weights are ranked by magnitude, movement or random, within a tensor or a stage; got "
                f"by={self.by!r}, scope={self.scope!r}."
            )

    @property
    def name(self) -> str:
        return "prune weights"

    @property
    def asks(self) -> Measure:
        return Measure.GRADIENT if self.by == "movement" else Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes, num_axes=2)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> MaskPlan | None:
        own = weights(self.layers, view)
        places = {name: kept_places(view, name, value) for name, value in own.items()}
        scores = {name: score.flatten()[places[name]] for name, score in self._scores(own, view, keyed).items()}
        scope: Literal["network", "tensor"] = "network" if self.scope == "stage" else "tensor"
        goes = select_lowest(scores, self.amount, scope=scope, floor=self.floor)
        tensors = {
            name: TensorRewiring(dropped=places[name][chosen], grown=places[name][:0])
            for name, chosen in goes.items()
            if bool(chosen.any())
        }
        if not tensors:
            return None
        count = sum(change.dropped.numel() for change in tensors.values())
        total = sum(len(own) for own in places.values())
        return MaskPlan(
            summary=f"prune {count} of {total} weights in {len(own)} tensors ({self.by})",
            rewiring=Rewiring(rule=repr(self), step=step, tensors=tensors),
        )

    def _scores(self, own: Mapping[str, Tensor], view: StageView, keyed: Keyed) -> dict[str, Tensor]:
        match self.by:
            case "magnitude":
                return score_magnitude(own)
            case "movement":
                return score_movement(with_gradients(view, own))
            case "random":
                return score_random({name: value.double() for name, value in own.items()}, keyed)


@dataclass(frozen=True, kw_only=True)
class LiftMasks:
    """Hold masks no longer: what was pruned learns again, from 0. The last part of dense-sparse-dense.

    Source: Han et al. 2017 (DSD, arXiv 1607.04381), who go on at a tenth of the learning rate: give the run a schedule
    that falls at the same step (`DenseSparseDense.rate`).
    """

    layers: tuple[str, ...] | None = None
    """Whose weights; None: all of them."""

    def __post_init__(self) -> None:
        check_names(self.layers)

    @property
    def name(self) -> str:
        return "lift masks"

    @property
    def asks(self) -> Measure:
        return Measure.NOTHING

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes, num_axes=2)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> MaskPlan | None:
        lifted = tuple(name for name in weights(self.layers, view) if name in view.kept)
        if not lifted:
            return None
        count = sum(int((~view.kept[name]).sum()) for name in lifted)
        return MaskPlan(
            summary=f"lift the masks of {len(lifted)} tensors: {count} weights learn again",
            rewiring=Rewiring(rule=repr(self), step=step, tensors={}),
            lifted=lifted,
        )
