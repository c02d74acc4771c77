"""What will events make of the stages, and is that possible?

The events of a run are carried out on copies of the stages, by the code of the run, after a step on one real microbatch
with random gradients each; so sizes are what they will be, and what cannot be done is refused before the run starts.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dni import Event, OnPlateau, carriers, foresee, map_members
from pipeline.clock import WallClock
from pipeline.configuration.partition import Partition
from pipeline.configuration.prepared import Prepared
from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError, StructureError
from pipeline.learners.learner import Learner
from pipeline.messages import Activation, Payload
from pipeline.randomness.keyed import generator, key, seeded, undisturbed
from pipeline.stages.stage import Stage

__all__ = ["Change", "check_events", "foreseen_steps", "rehearse_events"]

_MOST_REHEARSED = 60
"""Steps with events that are carried out beforehand; what follows is told by its schedule only."""
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an event does to one stage."""

    step: int | None
    """None: it is not known when."""
    stage: int
    what: str
    """In one line."""
    parameters: tuple[int, int]
    """Of the stage, before and after."""
    flops: tuple[int, int]
    """Of a forward of one sample, before and after; matrix products and convolutions only."""


class _Build(Protocol):
    def __call__(self, prepared: Prepared, index: int, *, clock: WallClock) -> Stage: ...


def foreseen_steps(events: Sequence[Event], *, steps: int, steps_per_epoch: int | None, seed: int) -> dict[int, list[int]]:
    """The steps of each event whose schedule is known, by its place."""
    return {
        place: foresee(
            event.when,
            num_steps=steps,
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
    chosen = sorted({step for place in steps for step in _telling(config.events[place], steps[place])})
    rehearsal = _Rehearsal(prepared, batch, build)
    changes = [change for step in chosen[:_MOST_REHEARSED] for change in rehearsal.carry_out(step)]
    unforeseen = {place for place, event in enumerate(config.events) if place not in steps}
    if unforeseen:
        changes += [replace(change, step=None) for change in rehearsal.carry_out(config.steps, forced=unforeseen)]
    rehearsal.pass_through(config.steps)
    return tuple(changes)


def _telling(event: Event, steps: Sequence[int]) -> Sequence[int]:
    """The steps that are worth carrying out beforehand: where no shapes change, the first one says it all."""
    return steps if event.action.changes_shapes else steps[:1]


class _Rehearsal:
    """Copies of the stages of a run, to be changed."""

    def __init__(self, prepared: Prepared, batch: Batch, build: _Build) -> None:
        x, target = batch
        self._x: Payload = map_members(lambda member: member[:4], x)
        self._target = None if target is None else target[:4]
        self._seed = prepared.config.seed
        model = copy.deepcopy(Partition(prepared.cut.stages, prepared.cut.prefixes))
        with undisturbed():
            copied = replace(
                prepared,
                cut=model,
                config=replace(prepared.config, measure_updates_every=0),
                sources=copy.deepcopy(prepared.sources),
                inputs=copy.deepcopy(prepared.inputs),
            )
            self._stages = [build(copied, index, clock=WallClock()) for index in range(len(model))]

    def carry_out(self, step: int, *, forced: Collection[int] = ()) -> list[Change]:
        """One microbatch with random gradients, an update, and the events that are due after it."""
        changes = []
        with undisturbed():
            seeded(self._seed, "rehearsal", step, device=_CPU)
            sizes = self.pass_through(step)
            for stage in self._stages:
                learner = _learner(stage)
                learner.fire(forced)
                try:
                    for message in learner.change_structure(step):
                        _learner(self._stages[stage.index + 1]).follow(message)
                except StructureError as error:
                    raise ConfigurationError(f"events: {error}") from error
            changed = [stage.recorder.take_changes() for stage in self._stages]
            if any(changed):
                after = self.pass_through(step)
                changes = [
                    Change(
                        step=step,
                        stage=index,
                        what=what,
                        parameters=(sizes[index][0], after[index][0]),
                        flops=(sizes[index][1], after[index][1]),
                    )
                    for index, own in enumerate(changed)
                    for _, what in own
                ]
        return changes

    def pass_through(self, step: int) -> list[tuple[int, int]]:
        """Forward, a backward of random gradients and an update in every stage; parameters and FLOPs of each."""
        h, entries, flops = self._x, [], []
        for stage in self._stages:
            learner = _learner(stage)
            message = Activation(step=step, h=h, target=self._target, generation=learner.generation_below)
            try:
                with FlopCounterMode(display=False) as counter:
                    entry = learner.forward(message, learns=True, held=True, sync=False, asks=False, wanted=False)
            except Exception as error:
                raise ConfigurationError(
                    f"events: after those before step {step}, stage {stage.index} cannot take what stage "
                    f"{stage.index - 1} sends: {type(error).__name__}: {error}."
                ) from error
            flops.append(counter.get_total_flops() // len(carriers(h)[0]))
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
    return torch.randn(member.shape, dtype=member.dtype) if member.is_floating_point() else torch.zeros_like(member)


def _num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
