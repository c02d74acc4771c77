"""With which weights does a microbatch run forward, and backward, when its gradient comes late?

The module's own of today, unless the stash keeps those of the forward or a correction sets others in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dni import Applied, Corrector
from pipeline.learners.weightless import WeightlessGraphs
from pipeline.learners.weights import AxisChanges, WeightVersions, move_gradients
from pipeline.stages.stash import Forwarded, StashPolicy

__all__ = ["LateWeights", "Substitutes"]


@dataclass(frozen=True, slots=True)
class Substitutes:
    """What a forward runs with instead of the module's own weights."""

    replaced: Mapping[str, Tensor] | None = None
    """To be called with, by parameter name; None: the module's own."""
    kept: Mapping[str, Tensor] | None = None
    """Those that hold the gradients afterwards, and are kept with the microbatch; None: the module's own."""
    own: Mapping[str, Tensor] | None = None
    """The module's parameters at the forward, which it may have others for when the gradient comes."""


class LateWeights:
    """The weights of a stage's microbatches, by its stash and its correction.

    Args:
        module: the stage's module.
        stash: what is kept from a forward until its gradient comes.
        corrector: what is done about gradients that come late; None: nothing.
        history: the changes of the stage's structure so far, in order; it grows.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        stash: StashPolicy,
        corrector: Corrector | None,
        history: Sequence[AxisChanges] = (),
    ) -> None:
        self._module = module
        self._parameters = dict(module.named_parameters())
        self._history = history
        self._stash = stash
        self._corrector = corrector
        self._versions = WeightVersions(module)
        self._weightless = WeightlessGraphs(module)

    @property
    def corrects(self) -> bool:
        """Whether a gradient is pulled back otherwise than it came."""
        return self._corrector is not None

    @contextmanager
    def forward(self, *, version: int, held: bool, num_due: int) -> Iterator[Substitutes]:
        """What the forward in the block runs with.

        `num_due` updates will be applied before the gradient of a microbatch that is `held` is pulled back.
        """
        ahead = self._corrector.weights_ahead(num_due) if held and self._corrector is not None else None
        if held and self._stash == "graph":
            with self._weightless.forward(ahead):
                yield Substitutes(own=self._parameters)
            return
        if held and self._stash == "weights" and ahead is None:
            ahead = self._versions.of(version)
        kept = ahead if self._stash == "weights" else None
        yield Substitutes(replaced=ahead, kept=kept, own=self._parameters)

    def forward_again(self, entry: Forwarded, *, version: int) -> Mapping[str, Tensor]:
        """What the forward of a microbatch whose graph was not kept is run again with; kept with it from now on."""
        entry.weights = self._behind(entry, version=version)
        return entry.weights or {}

    @contextmanager
    def backward(self, entry: Forwarded, *, version: int) -> Iterator[None]:
        """Pull a gradient back in the block; it moves the weights of today."""
        behind = self._behind(entry, version=version) if self._stash == "graph" else None
        with self._weightless.backward(behind):
            yield
        holders = entry.weights if entry.weights is not None else entry.own_weights
        if holders is not None and (entry.weights is not None or entry.structure < len(self._history)):
            move_gradients(self._module, holders, self._history[entry.structure :])

    def holders(self, entry: Forwarded) -> list[Tensor]:
        """The tensors that hold the parameter gradients of a microbatch's graph."""
        weights = entry.weights or entry.own_weights or self._parameters
        return [weight for weight in weights.values() if weight.requires_grad]

    def update(self, apply: Callable[[], list[Applied]]) -> list[Applied]:
        """Apply an update; the correction looks at what it changes. Returns what was applied, if anything."""
        if self._corrector is None:
            return apply()
        before = self._corrector.before_update()
        applied = apply()
        if applied:
            self._corrector.after_update(before)
        return applied

    def state_dict(self) -> dict[str, Any]:
        """What the correction has learned of the weights' movement, by parameter name."""
        return {} if self._corrector is None else self._corrector.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        if self._corrector is not None:
            self._corrector.load_state_dict(state)

    def _behind(self, entry: Forwarded, *, version: int) -> dict[str, Tensor] | None:
        """Other weights than the module's own to pull a gradient back with, if there is a rule for that."""
        return None if self._corrector is None else self._corrector.weights_behind(version - entry.version)
