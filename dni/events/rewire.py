"""How does a layer become sparse, and change its connections, by a rule of dynamic sparse training?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.events.plan import MaskPlan
from dni.events.targets import check_held, check_names, weights
from dni.events.view import Measure, StageView, with_gradients
from dni.pruning.rewiring import Rewiring, TensorRewiring
from dni.pruning.sparse_training import SET, DenseSparseDense, GradualMagnitude, RigL, SparseTraining
from dni.pruning.sparsity import erdos_renyi, erdos_renyi_kernel, random_masks, uniform_density
from dni.structure.keyed import Keyed

__all__ = ["Rewire"]

_DENSITIES = {"erdos-renyi": erdos_renyi, "erdos-renyi-kernel": erdos_renyi_kernel, "uniform": uniform_density}


@dataclass(frozen=True, kw_only=True)
class Rewire:
    """Apply a rule of dynamic sparse training to the weights of some layers.

    With a sparsity, the first time that it is due draws the masks, and the next one is the first that rewires; to be
    sparse from the first update on, have it due at step 0: `EverySteps(100, first=0)`. Without one, what has no mask
    counts as all kept: for rules that make a layer sparse by themselves (`GradualMagnitude`, `DenseSparseDense`), or
    after `PruneWeights`.
    """

    rule: SparseTraining
    """Says what goes and what comes: `SET`, `RigL`, ..."""
    layers: tuple[str, ...] | None = None
    """Whose weights (parameters of two axes or more); None: all of them."""
    sparsity: float | None = None
    """Share of the stage's weights that is pruned at first, in (0, 1); None: what there is."""
    distribution: Literal["erdos-renyi", "erdos-renyi-kernel", "uniform"] = "erdos-renyi-kernel"
    """How it is shared out to the tensors."""

    def __post_init__(self) -> None:
        check_names(self.layers)
        if self.sparsity is not None and not 0.0 < self.sparsity < 1.0:
            raise ValueError(f"the sparsity to begin with must lie in (0, 1), got {self.sparsity}.")
        if self.distribution not in _DENSITIES:
            raise ValueError(f"densities are shared out by {', '.join(_DENSITIES)}, got {self.distribution!r}.")

    @property
    def name(self) -> str:
        return "rewire"

    @property
    def asks(self) -> Measure:
        known_without = isinstance(self.rule, SET | GradualMagnitude | DenseSparseDense)
        return Measure.NOTHING if known_without else Measure.GRADIENT

    def check(self, shapes: Shapes) -> None:
        check_held(self.layers, shapes, num_axes=2)

    def plan(self, view: StageView, *, step: int, keyed: Keyed) -> MaskPlan | None:
        own = weights(self.layers, view)
        dense = {name: value for name, value in own.items() if name not in view.kept}
        if not own:
            return None
        if dense and self.sparsity is not None:
            return self._begin(dense, step=step, keyed=keyed)
        if dense and isinstance(self.rule, SET | RigL):
            raise ValueError(
                f"{type(self.rule).__name__} rewires what is sparse, but {', '.join(dense)} is dense. Give Rewire a "
                "sparsity, or have PruneWeights before it."
            )
        begun = {name: torch.ones_like(value, dtype=torch.bool) for name, value in dense.items()}
        kept = {name: begun[name] if name in begun else view.kept[name] for name in own}
        rewiring = self.rule.plan(with_gradients(view, own), kept, step=step, keyed=keyed)
        dropped, grown = _count(rewiring)
        if not (dropped or grown):
            return None
        total = sum(int(torch.count_nonzero(mask)) for mask in kept.values())
        what, rule = f"drop {dropped} of {total} weights in {len(own)} tensors", type(self.rule).__name__
        return MaskPlan(summary=f"{what} and grow {grown} ({rule})", rewiring=rewiring)

    def _begin(self, dense: Mapping[str, Tensor], *, step: int, keyed: Keyed) -> MaskPlan:
        assert self.sparsity is not None
        shapes = {name: tuple(value.shape) for name, value in dense.items()}
        densities = _DENSITIES[self.distribution](shapes, 1 - self.sparsity)
        masks = random_masks(shapes, densities, keyed)
        tensors = {
            name: TensorRewiring(dropped=places, grown=places[:0])
            for name, places in ((name, (~mask).flatten().nonzero().flatten()) for name, mask in masks.items())
        }
        rewiring = Rewiring(rule=repr(self), step=step, tensors=tensors)
        total = sum(value.numel() for value in dense.values())
        return MaskPlan(
            summary=f"prune {_count(rewiring)[0]} of {total} weights in {len(dense)} tensors ({self.distribution})",
            rewiring=rewiring,
        )


def _count(rewiring: Rewiring) -> tuple[int, int]:
    """Weights that go, and that come."""
    changes = rewiring.tensors.values()
    return sum(own.dropped.numel() for own in changes), sum(own.grown.numel() for own in changes)
