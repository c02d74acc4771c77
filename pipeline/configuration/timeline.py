"""What will events make of the stages, and is that possible?

The events of a run are carried out on copies of the stages, by the code of the run, after a step on one real microbatch
with random gradients each; so sizes are what they will be, and what cannot be done is refused before the run starts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from dni import Event, OnPlateau, carriers, foresee, map_members
from pipeline.clock import WallClock
from pipeline.configuration.plan import Change
from pipeline.configuration.prepared import Prepared
from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError, StructureError
from pipeline.learners.flops import forward_flops
from pipeline.learners.learner import Learner
from pipeline.messages import Activation, Payload
from pipeline.randomness.keyed import key, seeded, undisturbed
from pipeline.stages.stage import Stage

__all__ = ["MOST_REHEARSED", "check_events", "foreseen_steps", "rehearse_events"]

MOST_REHEARSED = 200
"""Steps with events that are carried out beforehand; what follows is told by its schedule only."""
_CPU = torch.device("cpu")


class _Build(Protocol):
    def __call__(self, prepared: Prepared, index: int, *, clock: WallClock) -> Stage: ...


def foreseen_steps(
    events: Sequence[Event], *, steps: int, steps_per_epoch: int | None, seed: int
) -> dict[int, list[int]]:
    """The steps of each event whose schedule is known, by its place; what is due at the last one is left out."""
    return {
        place: foresee(
            event.when,
            num_steps=steps - 1,
            steps_per_epoch=steps_per_epoch,
            draw=lambda step, place=place: key(seed, f"event/{place}", step) / 2**63,  # type: ignore[misc]
        )
        for place, event in enumerate(events)
        if not isinstance(event.when, OnPlateau)
    }


def check_events(prepared: Prepared) -> None:
    """Refuse events that this run cannot have, as far as names and schedules say.

    Raises:
        ConfigurationError: names the event.
    """
    config, cut = prepared.config, prepared.cut
    if not config.events:
        return
    shapes = {
        cut.names(index)[name]: tuple(parameter.shape)
        for index in range(len(cut))
        for name, parameter in cut.stages[index].named_parameters()
    }
    labels = [event.label for event in config.events]
    if repeated := next((label for label in labels if labels.count(label) > 1), None):
        raise ConfigurationError(
            f"events: {repeated!r} is the name of {labels.count(repeated)} events, and random numbers belong to names. "
            "Give each a name: Event(when, action, name=...)."
        )
    for event in config.events:
        try:
            event.check(shapes, num_steps=config.steps, steps_per_epoch=prepared.outline.steps_per_epoch)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error)) from error


def rehearse_events(prepared: Prepared, batch: Batch, build: _Build) -> tuple[Change, ...]:
    """Carry out the events on copies of the stages.

    Args:
        prepared: the run; nothing of it is touched.
        batch: a real one, (x, target).
        build: `build_stage`.

    Raises:
        ConfigurationError: an event cannot be carried out; names event, step and stage.
    """
    config = prepared.config
    if not config.events:
        return ()
    steps = foreseen_steps(
        config.events, steps=config.steps, steps_per_epoch=prepared.outline.steps_per_epoch, seed=config.seed
    )
    rehearsal = _Rehearsal(prepared, batch, build)
    changes, quiet, count = [], set[int](), 0
    for step in sorted({step for own in steps.values() for step in own}):
        due = {place for place, own in steps.items() if step in own}
        if due <= quiet or count == MOST_REHEARSED:
            continue
        count += 1
        made, changes_shapes = rehearsal.carry_out(step, due)
        if changes_shapes and config.stash == "graph":
            raise ConfigurationError(
                f"events: {made[0].what} (step {step}), but with stash graph a microbatch is pulled back through "
                "weights of today, which would be of another shape than its own. Use stash hold, weights or recompute."
            )
        changes += made
        if not changes_shapes:
            quiet |= due
    if unforeseen := set(range(len(config.events))) - steps.keys():
        changes += [replace(change, step=None) for change in rehearsal.carry_out(config.steps, unforeseen)[0]]
    with undisturbed():
        rehearsal.pass_through(config.steps)
    return tuple(changes)


class _Rehearsal:
    """Copies of the stages of a run, to be changed."""

    def __init__(self, prepared: Prepared, batch: Batch, build: _Build) -> None:
        x, target = batch
        self._x: Payload = map_members(lambda member: member[:4], x)
        self._target = None if target is None else target[:4]
        self._seed = prepared.config.seed
        self._latest = ""
        """What was carried out last."""
        with undisturbed():
            copied = replace(prepared.copied(), config=replace(prepared.config, measure_updates_every=0))
            self._stages = [build(copied, index, clock=WallClock()) for index in range(copied.num_stages)]

    def carry_out(self, step: int, due: Collection[int]) -> tuple[list[Change], bool]:
        """One microbatch with random gradients, an update, and then these events, by their places.

        Returns:
            What they do, and whether the shape of anything changes.
        """
        with undisturbed():
            seeded(self._seed, "rehearsal", step, device=_CPU)
            for stage in self._stages:
                _learner(stage).fire(due, step=step)
            sizes = self.pass_through(step)
            shapes = self._shapes()
            for stage in self._stages:
                try:
                    for message in _learner(stage).change_structure(step):
                        _learner(self._stages[stage.index + 1]).follow(message)
                except StructureError as error:
                    raise ConfigurationError(f"events: {error}") from error
            changed = [stage.recorder.take_changes() for stage in self._stages]
            same = shapes == self._shapes()
            self._latest = "; ".join(f"{what} at step {step}" for own in changed for _, what in own) or self._latest
            after = sizes if same else self.pass_through(step)
        return [
            Change(
                step=step,
                stage=index,
                what=what,
                parameters=(sizes[index][0], after[index][0]),
                flops=(sizes[index][1], after[index][1]),
            )
            for index, own in enumerate(changed)
            for _, what in own
        ], not same

    def _shapes(self) -> list[dict[str, torch.Size]]:
        return [{name: value.shape for name, value in stage.module.state_dict().items()} for stage in self._stages]

    def pass_through(self, step: int) -> list[tuple[int, int]]:
        """Forward, a backward of random gradients and an update in every stage; parameters and FLOPs of each."""
        h, entries, flops = self._x, [], []
        for stage in self._stages:
            learner = _learner(stage)
            message = Activation(step=step, h=h, target=self._target, generation=learner.generation_below)
            try:
                flops.append(forward_flops(stage.module, h))
                entry = learner.forward(message, learns=True, held=True, sync=False, asks=False, wanted=False)
            except Exception as error:
                raise ConfigurationError(
                    f"events: after {self._latest or 'nothing'}, stage {stage.index} cannot run any more, on "
                    f"{', '.join(str(tuple(own.shape)) for own in carriers(h))}: {type(error).__name__}: {error}. "
                    "What the event has put in must fit what is there then."
                ) from error
            entries.append(entry)
            h = entry.h
        for stage, entry in zip(self._stages, entries, strict=True):
            learner = _learner(stage)
            entry.gradient = map_members(_drawn, entry.h)
            entry.gradient_generation = entry.generation
            learner.rehearse(entry)
        return [(_num_parameters(stage.module), own) for stage, own in zip(self._stages, flops, strict=True)]


def _learner(stage: Stage) -> Learner:
    assert isinstance(stage.learner, Learner)
    return stage.learner


def _drawn(member: Tensor) -> Tensor:
    """Small, so that updates leave the weights about where they are: random ones lead nowhere, and far away."""
    if not member.is_floating_point():
        return torch.zeros_like(member)
    return torch.randn(member.shape, dtype=member.dtype) * 1e-6


def _num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
