"""How does a stage apply the gradients it has accumulated?

Gradients add up as sums over samples; an update divides them once by the samples they hold. A stage may consist of
blocks that update at different steps. A part of a weight is then a parameter of its own that shares the weight's
memory, with its own optimiser state, and has no gradient while its block accumulates: so nothing moves it, neither
momentum nor weight decay.

    one block, which asks for no noise    gradients stay in `.grad` until they are applied
    else                                  they are moved from `.grad` after each microbatch and added up here

When the structure of the stage changes, an updater is made anew and takes over what `followed` says of the old one. New
entries of a weight are then a piece of their own, with their own count, until bias correction no longer differs.

The shared memory is also one version counter (`detach`, unlike `.data`, keeps it): autograd refuses to pull a gradient
back through a part that was updated since the forward, as it does for whole weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dni import (
    Applied,
    Block,
    Masks,
    Pace,
    Piece,
    RateRule,
    TensorChange,
    Window,
    follow_tensor,
    rate_factor,
)
from pipeline.errors import CheckpointError, NotFinite
from pipeline.learners.decay import Decay
from pipeline.learners.held_masks import HeldMasks
from pipeline.learners.leaves import Leaf, follow_leaves, make_leaves
from pipeline.stages.participants import Participants

__all__ = ["OptimizerFactory", "Updater"]


class OptimizerFactory(Protocol):
    """Makes an optimiser for some parameters, as `functools.partial(torch.optim.Adam, lr=1e-3)` does."""

    def __call__(self, parameters: Iterable[nn.Parameter], /) -> Optimizer:
        """An optimiser of `parameters`."""


class Updater:
    """The optimiser of one stage, its accumulated gradients and its schedule.

    Args:
        parameters: the stage's parameters under their global names, already where they are to stay.
        optimizer: makes the optimiser; not called for a stage without parameters.
        schedule: factor of the learning rates as a function of the step.
        clip_norm: largest norm of the averaged gradient that an update applies; infinity leaves it alone.
        decay: how its weights decay, apart from what the optimiser does itself.
        blocks: of what is learned, each element in one of them; none: all of it is one block.
        pace: the cadences of the blocks, by their names; by default an update is due at every step.
        rate_rule: factor of a block's learning rate by the microbatches that it has accumulated.
        participants: say which blocks learn at a step; None: all of them do.
        ages: the pieces of parameters whose entries are not all of one age; none lies across two blocks.
        masks: what is left of parameters that are pruned; the rest of them stays 0.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        *,
        optimizer: OptimizerFactory,
        schedule: Callable[[int], float],
        clip_norm: float = math.inf,
        decay: Decay | None = None,
        blocks: Sequence[Block] = (),
        pace: Pace | None = None,
        rate_rule: RateRule = "none",
        participants: Participants | None = None,
        ages: Mapping[str, Sequence[Piece]] = MappingProxyType({}),
        masks: Masks = MappingProxyType({}),
    ) -> None:
        self.parameters = {name: p for name, p in parameters.items() if p.requires_grad}
        self.pace = pace or Pace()
        self._schedule = schedule
        self._clip_norm = clip_norm
        self._decay = decay
        self._rate_rule: RateRule = rate_rule
        self._participants = participants
        self._sets_rates = rate_rule != "none" or (participants is not None and participants.sets_rates)
        if not blocks:
            blocks = [Block(next(iter(self.pace.windows)), tuple(map(Piece, self.parameters)))]
        assert {block.name for block in blocks} == self.pace.windows.keys(), "each block has a cadence"
        self._ages = {name: list(pieces) for name, pieces in ages.items()}
        self._divided = {piece.parameter for block in blocks for piece in block.pieces if piece.box}
        """Parameters of which a block is but a part."""
        self._leaves = make_leaves(self.parameters, blocks, self._ages)
        self._num_parts = Counter(leaf.piece.parameter for leaf in self._leaves)
        self._apart = (
            len(blocks) > 1
            or len(self._num_parts) < len(self._leaves)
            or any(window.noise is not None for window in self.pace.windows.values())
        )
        """Whether gradients are added up here instead of in `.grad`."""
        self._masks = HeldMasks(self.parameters)
        self.on_gradients: Callable[[int, Mapping[str, Tensor]], object] | None = None
        """Called in each update with its step and the averaged gradients, not masked yet, by parameter."""
        self._sums: dict[str, Tensor] = {}
        """What was added up here, by parameter."""
        self._optimizer = optimizer([leaf.parameter for leaf in self._leaves]) if self._leaves else None
        if self._sets_rates and len(blocks) > 1:
            self._split_groups()
        self._base_rates = [group["lr"] for group in self._groups()]
        self._fresh = [_numbers(group) for group in self._groups()]
        self._names = self._names_by_position()
        self._block_of = {leaf.parameter: leaf.block for leaf in self._leaves}
        self.hold(masks)

    @property
    def num_samples(self) -> int:
        """The most samples that a block has accumulated."""
        return self.pace.num_samples

    def due(self, step: int) -> bool:
        """Whether an update falls due at this step; to be asked once for each microbatch, in order."""
        return self.pace.due(step)

    def accumulate(self, num_samples: int, *, step: int = 0) -> None:
        """The gradients of this many further samples were added to `.grad`; the step of their microbatch says whose."""
        rates = None if self._participants is None else self._participants.own(step)
        if self._apart:
            self._take_gradients(num_samples, learning=self.pace.windows if rates is None else rates)
        self.pace.accumulate(num_samples, rates)

    def apply_due(self, step: int) -> list[Applied]:
        """Update the blocks that fell due at this step; those that had something to apply."""
        windows = self.pace.take_due(step)
        applied = self._apply(step, windows)
        applied += self._drift(step, but={window.block for window in windows})
        if self._participants is not None and self._participants.forgets:
            self._forget_but(self._participants.own(step))
        return applied

    def apply(self, step: int) -> list[Applied]:
        """Update every block, due or not; those that had something to apply."""
        return self._apply(step, self.pace.take_all())

    def check_finite(self) -> None:
        """Raise `NotFinite`, naming the parameter, if one is not finite."""
        for name, parameter in self.parameters.items():
            if not torch.isfinite(parameter).all():
                raise NotFinite(f"parameter {name} holds NaN or infinity. Lower the learning rate or clip (clip_norm).")

    def state_dict(self) -> dict[str, Any]:
        """Optimiser state by piece, accumulated gradients by parameter, and what the blocks have seen.

        Of its groups, the numbers that have changed since the optimiser was made: some keep their progress there.
        """
        state = {} if self._optimizer is None else self._optimizer.state_dict()["state"]
        return {
            "optimizer": {self._names[position]: values for position, values in state.items()},
            "groups": [
                {name: value for name, value in _numbers(group).items() if value != fresh.get(name)}
                for group, fresh in zip(self._groups(), self._fresh, strict=True)
            ],
            "gradients": {name: gradient.clone() for name, gradient in self._held().items() if gradient is not None},
            "pace": self.pace.state_dict(),
            "touched": [leaf.piece.name for leaf in self._leaves if leaf.touched],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. Learning rates come from the configuration, not from the state.

        Raises:
            CheckpointError: it is of other blocks.
        """
        self._refuse_other_blocks(state)
        if self._optimizer is not None:
            positions = {name: position for position, name in self._names.items()}
            own = self._optimizer.state_dict()
            own["state"] = {positions[name]: values for name, values in state["optimizer"].items()}
            for group in own["param_groups"]:  # torch looks each number of each piece up in it: in a list, all of them
                first = group["params"][0] if group["params"] else 0
                if group["params"] == list(range(first, first + len(group["params"]))):
                    group["params"] = range(first, first + len(group["params"]))
            self._optimizer.load_state_dict(own)
            for group, changed in zip(self._groups(), state["groups"], strict=True):
                group.update(changed)
        gradients = {
            name: gradient.to(self.parameters[name].device).clone() for name, gradient in state["gradients"].items()
        }
        self._sums = gradients if self._apart else {}
        for name, parameter in self.parameters.items():
            parameter.grad = None if self._apart else gradients.get(name)
        if "pace" not in state:  # the oldest checkpoints, of a stage that is one block
            for window in self.pace.windows.values():
                window.num_samples = state["num_samples"]
                window.num_microbatches = min(1, window.num_samples)
            return
        self.pace.load_state_dict(state["pace"])
        for leaf in self._leaves:
            leaf.touched = leaf.piece.name in state["touched"]

    def followed(
        self, changes: Mapping[str, TensorChange], values: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], dict[str, list[Piece]], dict[str, Tensor]]:
        """What an updater of the parameters as they will be begins with; nothing is changed here.

        Args:
            changes: of parameters, by name.
            values: what those will be.

        Returns:
            The state it loads, the pieces by age and the masks that it is made with.

        Raises:
            ValueError, TypeError: something cannot follow.
        """
        state, ages, masks = self.state_dict(), self.ages, self.masks
        touched = set(state["touched"])
        for name in filter(changes.__contains__, self.parameters):
            change, value = changes[name], values[name]
            leaves = [leaf for leaf in self._leaves if leaf.piece.parameter == name]
            assert self._optimizer is not None
            pieces = follow_leaves(
                leaves,
                change,
                parameter=self.parameters[name],
                value=value,
                optimizer=self._optimizer,
                divided=self._divided,
            )
            for leaf in leaves:
                state["optimizer"].pop(leaf.piece.name, None)
                touched.discard(leaf.piece.name)
            state["optimizer"] |= {each.piece.name: dict(each.state) for each in pieces if each.state}
            if any(leaf.touched for leaf in leaves):
                touched |= {each.piece.name for each in pieces}
            ages.pop(name, None)
            if len(pieces) > 1 and name not in self._divided:
                ages[name] = [each.piece for each in pieces]
            if name in state["gradients"]:
                state["gradients"][name] = follow_tensor(state["gradients"][name], "gradient", change, value=value)
            if name in masks:
                masks[name] = follow_tensor(masks[name], "mask", change, value=value)
        return state | {"touched": sorted(touched)}, ages, masks

    @property
    def ages(self) -> dict[str, list[Piece]]:
        """The pieces of parameters whose entries are not all of one age, in order."""
        return dict(self._ages)

    @property
    def masks(self) -> dict[str, Tensor]:
        """What is left of parameters that are pruned, bool by name."""
        return dict(self._masks.kept)

    def hold(self, masks: Masks) -> None:
        """Keep what these leave out at 0 from now on: weights, gradients, and what the optimiser remembers.

        Raises:
            ValueError: a mask has no parameter of its name and shape.
        """
        self._masks.hold_(masks, self._leaves, self._optimizer)

    def _take_gradients(self, num_samples: int, *, learning: Collection[str]) -> None:
        """Add up what is in `.grad` for the blocks that learn; one whose cadence asks for it takes its norm first."""
        fresh = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        for name, window in self.pace.windows.items():
            if window.noise is not None and name in learning:
                pieces = [leaf.piece for leaf in self._leaves if leaf.block == name and leaf.piece.parameter in fresh]
                square = _square(piece.of(fresh[piece.parameter]) for piece in pieces)
                window.noise.add(square, num_samples=num_samples)
        for leaf in self._leaves:
            if leaf.block in learning:
                leaf.touched |= leaf.piece.parameter in fresh
            elif leaf.piece.parameter in fresh:  # a part of a weight that pauses while others of its parts learn
                leaf.piece.of(fresh[leaf.piece.parameter]).zero_()
        known = [name for name in fresh if name in self._sums]
        if known:
            torch._foreach_add_([self._sums[name] for name in known], [fresh[name] for name in known])
        for name, gradient in fresh.items():
            self._sums.setdefault(name, gradient)
            self.parameters[name].grad = None

    def _apply(self, step: int, windows: list[Window]) -> list[Applied]:
        """Divide by the samples, clip, step the optimiser and clear."""
        if self._optimizer is None or not windows:
            for window in windows:
                window.close()
            return []
        due = {window.block: window for window in windows}
        leaves = [leaf for leaf in self._leaves if leaf.block in due]
        if self._apart:
            self._give_gradients(leaves)
        self._divide(due, leaves)
        if self.on_gradients is not None:
            self.on_gradients(step, self._averaged(leaves))
        self._masks.mask_(self._held())
        if not math.isinf(self._clip_norm) and any(leaf.parameter.grad is not None for leaf in leaves):
            nn.utils.clip_grad_norm_([leaf.parameter for leaf in leaves], self._clip_norm)
        self._set_rates(step, due)
        if self._decay is not None:
            self._decay.apply(self._optimizer, step)
        self._optimizer.step()
        for leaf in leaves:
            leaf.parameter.grad = None
        if self._apart:
            self._clear(leaves)
        return [window.close() for window in windows]

    def _give_gradients(self, leaves: Iterable[Leaf]) -> None:
        for leaf in leaves:
            if leaf.touched:
                leaf.parameter.grad = leaf.piece.of(self._sums[leaf.piece.parameter])

    def _divide(self, due: Mapping[str, Window], leaves: Iterable[Leaf]) -> None:
        """By the samples of each block; a parameter whose parts all hold as many, in one piece, which is faster."""
        parts: dict[str, list[Leaf]] = {}
        for leaf in leaves:
            if leaf.parameter.grad is not None:
                parts.setdefault(leaf.piece.parameter, []).append(leaf)
        by_count: dict[int, list[Tensor]] = {}
        for name, own in parts.items():
            counts = [due[leaf.block].num_samples for leaf in own]
            if self._apart and len(own) == self._num_parts[name] and len(set(counts)) == 1:
                by_count.setdefault(counts[0], []).append(self._sums[name])
                continue
            for count, leaf in zip(counts, own, strict=True):
                assert leaf.parameter.grad is not None
                by_count.setdefault(count, []).append(leaf.parameter.grad)
        for count, gradients in by_count.items():
            torch._foreach_div_(gradients, count)
        for window in due.values():
            if window.noise is not None:
                taken = [leaf.parameter.grad for own in parts.values() for leaf in own if leaf.block == window.block]
                square = _square(gradient for gradient in taken if gradient is not None)
                window.noise.close(square, num_samples=window.num_samples)

    def _held(self) -> Mapping[str, Tensor | None]:
        """The gradients that are accumulated, by parameter."""
        return self._sums if self._apart else {name: p.grad for name, p in self.parameters.items()}

    def _averaged(self, applied: Sequence[Leaf]) -> dict[str, Tensor]:
        """Those that are being applied as they are; of what still adds up, a copy divided by its samples."""
        held = self._held()
        divided = {id(leaf) for leaf in applied}
        found = {name: gradient for name, gradient in held.items() if gradient is not None}
        for leaf in self._leaves:
            name, count = leaf.piece.parameter, self.pace.windows[leaf.block].num_samples
            if name in found and id(leaf) not in divided and count:
                if found[name] is held[name]:
                    found[name] = found[name].clone()
                leaf.piece.of(found[name]).div_(count)
        return found

    def _clear(self, leaves: Iterable[Leaf]) -> None:
        """What was applied is forgotten; what shares a tensor with it stays."""
        for leaf in leaves:
            leaf.touched = False
        waiting = {leaf.piece.parameter for leaf in self._leaves if leaf.touched}
        for leaf in leaves:
            if leaf.piece.parameter in waiting:
                leaf.piece.of(self._sums[leaf.piece.parameter]).zero_()
            else:
                self._sums.pop(leaf.piece.parameter, None)

    def _set_rates(self, step: int, windows: Mapping[str, Window]) -> None:
        """By the schedule, by the rule for what a block has accumulated, and by what its microbatches ask for."""
        factor = self._schedule(step)
        blocks = {id(leaf.parameter): leaf.block for leaf in self._leaves} if self._sets_rates else {}
        for group, rate in zip(self._groups(), self._base_rates, strict=True):
            group["lr"] = rate * factor
            if blocks and group["params"] and (window := windows.get(blocks[id(group["params"][0])])):
                group["lr"] *= rate_factor(self._rate_rule, window.num_microbatches) * window.rate

    def _drift(self, step: int, *, but: Collection[str]) -> list[Applied]:
        """Move the blocks that drift, `but` those just updated, by a step along their momentum."""
        drifting = self.pace.drifting.difference(but)
        if not drifting or self._optimizer is None:
            return []
        factor = self._schedule(step)
        with torch.no_grad():
            for group, rate in zip(self._groups(), self._base_rates, strict=True):
                for parameter in group["params"]:
                    momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
                    if momentum is not None and self._block_of[parameter] in drifting:
                        parameter.sub_(momentum, alpha=rate * factor)
        return [self.pace.windows[name].drifted() for name in sorted(drifting)]

    def _forget_but(self, learning: Collection[str]) -> None:
        assert self._optimizer is not None or not self._leaves
        for leaf in self._leaves:
            if leaf.block not in learning and self._optimizer is not None:
                self._optimizer.state.pop(leaf.parameter, None)

    def _split_groups(self) -> None:
        """A learning rate belongs to a group, so each block gets groups of its own."""
        assert self._optimizer is not None
        blocks = {id(leaf.parameter): leaf.block for leaf in self._leaves}
        split: list[dict[str, Any]] = []
        for group in self._groups():
            own: dict[str, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                own.setdefault(blocks[id(parameter)], []).append(parameter)
            split += [{**group, "params": parameters} for parameters in own.values()]
        self._optimizer.param_groups[:] = split

    def _refuse_other_blocks(self, state: Mapping[str, Any]) -> None:
        unknown = sorted(state["optimizer"].keys() - set(self._names.values()))
        other = sorted(state["pace"].keys() ^ self.pace.windows.keys()) if "pace" in state else []
        if unknown or other:
            raise CheckpointError(
                f"the checkpoint's optimiser state is of other blocks, {', '.join(unknown + other) or 'none'}: "
                f"this run has {', '.join(self.pace.windows)} with {', '.join(self._names.values())}. Resume with the "
                "blocks and the rate_rule that the run was started with."
            )

    def _groups(self) -> list[dict[str, Any]]:
        return [] if self._optimizer is None else self._optimizer.param_groups

    def _names_by_position(self) -> dict[int, str]:
        """The optimiser numbers its parameters group by group; files name them."""
        names = {id(leaf.parameter): leaf.piece.name for leaf in self._leaves}
        ordered = [parameter for group in self._groups() for parameter in group["params"]]
        return {position: names[id(parameter)] for position, parameter in enumerate(ordered)}


def _square(gradients: Iterable[Tensor]) -> float:
    """The squared norm of all of them together."""
    return math.fsum(torch.linalg.vector_norm(gradient, dtype=torch.float64).item() ** 2 for gradient in gradients)


def _numbers(group: Mapping[str, Any]) -> dict[str, float]:
    """What an optimiser counts for a group of parameters; its learning rate is the schedule's."""
    return {name: value for name, value in group.items() if type(value) in (bool, int, float) and name != "lr"}
