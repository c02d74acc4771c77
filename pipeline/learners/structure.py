"""How does the structure of a stage change while it trains?

Events are carried out right after the first update at their step or later: measured, planned, applied. What becomes of
the units of the stage's output is told to the stage above, in its place among the activations; what the stage below
tells is followed at once. A microbatch in flight is finished with the parameters it was forwarded with, and only then
its gradients are mapped; what crosses the boundary says of which generation of the units it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from dni import (
    Component,
    Coupled,
    Event,
    MaskPlan,
    Measure,
    OnPlateau,
    PartPlan,
    Phase,
    PlateauState,
    TensorChange,
    TensorPlan,
    UnitChange,
    UnitPlan,
    carriers,
    change_units,
    map_tensor,
)
from pipeline.errors import StructureError
from pipeline.learners.body import Body
from pipeline.learners.boundary import Boundary
from pipeline.learners.flops import forward_flops
from pipeline.learners.input_learner import InputLearner
from pipeline.learners.source_learner import SourceLearner
from pipeline.learners.view import View
from pipeline.learners.watch import Watch
from pipeline.messages import Payload, Reshape
from pipeline.randomness.keyed import Generators, generator, key
from pipeline.stages.stash import Forwarded
from pipeline.stages.trace import Recorder

__all__ = ["Structure"]


class Structure:
    """The events of one stage, and what has become of it.

    Args:
        index: position of the stage in the network.
        is_last: whether its output is the network's.
        events: of the run, by their places; those whose layers the stage does not have are left out by themselves.
        seed: of every draw.
        steps: of the run; an event that is due at the last one is for nothing, and is left out.
        steps_per_epoch: microbatches of an epoch of the data; None: not known.
    """

    def __init__(
        self,
        *,
        index: int,
        is_last: bool = True,
        events: Sequence[Event] = (),
        seed: int = 0,
        steps: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        self.below, self.above = Boundary(), Boundary()
        self._index, self._is_last, self._seed = index, is_last, seed
        self._steps, self._steps_per_epoch = steps, steps_per_epoch
        self._all = tuple(events)
        self._events: dict[int, Event] = {}
        """Those of this stage, by their place among all."""
        self._seen: dict[int, int] = {}
        """By event, the last step that was looked at."""
        self._plateaus: dict[int, PlateauState] = {}
        self._fired: set[int] = set()
        """Events on a plateau that are due."""
        self._kept: dict[int, Any] = {}
        """What an event's last plan has left for the next."""
        self._phases: list[Phase] = []
        self._phased = -1
        """The last step that the phases were moved on by."""
        self._loss: float | None = None
        self._example: Tensor | None = None
        self._gradients: dict[str, Tensor] = {}
        self._watch = Watch({})
        self._output_shape: tuple[int, ...] = ()
        self._counted: dict[str, int] | None = None
        """Changes by event when the stage was last measured; None: it never was."""
        self._coupled: dict[str, Coupled] = {}
        """What follows the units of a layer, as found since the last change."""
        self._is_installed = False

    def attach(
        self, body: Body, *, source: SourceLearner, inputs: InputLearner, recorder: Recorder, generators: Generators
    ) -> None:
        """Take charge of a stage; once."""
        self._body, self._source, self._inputs, self._recorder = body, source, inputs, recorder
        self._generators = generators
        has = body.naming.has
        self._events = {
            place: event
            for place, event in enumerate(self._all)
            if event.action.layers is None or any(has(body.module, layer) for layer in event.action.layers)
        }
        self._seen = dict.fromkeys(self._events, -1)
        if any(event.action.asks & Measure.INITIAL for event in self._events.values()):
            body.keep_initial()
        asked: dict[str, Measure] = {}
        for event in self._events.values():
            for layer in event.action.layers or ():
                if has(body.module, layer):
                    asked[layer] = asked.get(layer, Measure.NOTHING) | event.action.asks
        self._watch = Watch(asked)
        self._listen()

    @property
    def loss(self) -> float | None:
        """The newest training loss per sample that is known; None: nobody asks, or none was yet."""
        return self._loss

    @property
    def hears_losses(self) -> bool:
        """Whether any event of the run follows the loss."""
        return any(isinstance(e.when, OnPlateau) or getattr(e.action, "ramp", None) is not None for e in self._all)

    def hear_loss(self, loss: float) -> None:
        """A training loss per sample, of this stage or reported by the one above."""
        if not self.hears_losses:
            return
        self._loss = torch.tensor(loss, dtype=torch.float32).item()
        for place, event in self._events.items():
            if isinstance(event.when, OnPlateau):
                state = self._plateaus.get(place, PlateauState())
                self._plateaus[place], fires = event.when.observe(state, self._loss)
                if fires:
                    self._fired.add(place)

    def fire(self, places: Collection[int], *, step: int) -> None:
        """Let these events be due after this step, by their places, and no others."""
        self._fired = self._events.keys() & set(places)
        self._seen = dict.fromkeys(self._events, step)

    def stamped(self, entry: Forwarded) -> Forwarded:
        """A microbatch that was just forwarded, with the structure that it is of."""
        entry.generation, entry.generation_below = self.above.generation, self.below.generation
        entry.structure = len(self._body.history)
        return entry

    @contextmanager
    def watching(self, x: Payload) -> Iterator[None]:
        """Take down in the block, a forward of training, what events ask for."""
        if not self._all:
            yield
            return
        if isinstance(x, Tensor):
            self._example = x[:2].detach().clone()
        if self._watch.is_needed and not self._is_installed:
            with self._generators.forked():
                self._watch.install(self._view().read)
            self._is_installed = True
        with self._watch.forward():
            yield

    def leaves(self, h: Payload) -> None:
        """The output of a forward of training, with its graph."""
        if self._all and isinstance(h, Tensor):
            self._output_shape = tuple(h.shape)
        if self._watch.is_needed and isinstance(h, Tensor):
            self._watch.leaves(h)

    def change(self, step: int, *, version: int) -> list[Reshape]:
        """Carry out what is due after the update of this step; what the stage above has to follow, in order.

        Raises:
            StructureError: an event cannot be carried out; the structure is what it was before.
        """
        self._advance_phases(step)
        messages = []
        for place in self._due(step):
            event = self._events[place]
            if not self._is_measured(event):
                continue  # nothing was learned from since the last change; it waits for an update where something was
            self._recorder.begin()
            with self._whole(event.label, step):
                messages += self._carry_out(place, event, step)
            self._fired.discard(place)
            self._seen[place] = step
            self._recorder.end("C", step, version=version)
        if self._all and self._recorder.totals.changes != self._counted:
            self._measure(step)
        self._gradients = {}
        return messages

    def follow(self, message: Reshape, *, version: int) -> None:
        """The stage below sends other units from here on.

        Raises:
            StructureError: this stage cannot follow; its structure is what it was before.
        """
        self._recorder.begin()
        told = json.loads(message.change)
        with self._whole(told["event"], message.step):
            change = UnitChange.from_json(told["units"])
            coupled = self._view().coupled_input(told["axis"])
            if change.origin.fresh or change.origin.is_scaled:
                coupled.hidden.check_kept(change.origin)
            tensors = change_units(
                coupled.hidden, change.origin, change.new, keyed=self._keyed(told["event"], message.step)
            )
            self._apply(tensors)
            self._begin_phase(told["event"], change, tensors)
            self._inputs.remap(change.origin, axis=told["axis"], step=message.step)
            self.below.change(change.origin, axis=told["axis"])
            if self._example is not None:
                self._example = change.origin.raised(0).apply(self._example, told["axis"])
            self.below.check(message.generation, where=f"stage {self._index}, event {told['event']}")
        self._recorder.end("C", message.step, version=version)
        self._recorder.changed(message.step, told["event"], f"follows stage {self._index - 1}")
        self._measure(message.step)

    def renew(self, entry: Forwarded) -> None:
        """A microbatch is run again, by the structure of today: its input is made what the units below are now."""
        assert entry.x is not None
        if entry.generation_below != self.below.generation:
            old = carriers(entry.x)
            entry.x = self.below.translate(entry.x, entry.generation_below, holds="activation")
            for new, before in zip(carriers(entry.x), old, strict=True):
                new.requires_grad_(before.requires_grad)
        self.stamped(entry)
        entry.own_weights = None

    def translate_gradient(self, entry: Forwarded, *, until: int) -> None:
        """What has come from above, for the units of the generation that is pulled back through."""
        if entry.gradient is not None and entry.gradient_generation != until:
            entry.gradient = self.above.translate(
                entry.gradient, entry.gradient_generation, until=until, holds="gradient"
            )
            entry.gradient_generation = until

    def translate_lesson(self, entry: Forwarded) -> None:
        """Output and gradient of a microbatch that the source learns from, for the units of today."""
        today = self.above.generation
        if entry.generation != today:
            entry.h = self.above.translate(entry.h, entry.generation, holds="activation")
            entry.generation = today
        self.translate_gradient(entry, until=today)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know: events that were dealt with, phases on their way, generations."""
        return {
            "seen": dict(self._seen),
            "fired": sorted(self._fired),
            "plateaus": {place: asdict(state) for place, state in self._plateaus.items()},
            "kept": dict(self._kept),
            "phases": [phase.to_json() for phase in self._phases],
            "phased": self._phased,
            "loss": self._loss,
            "generations": [self.below.generation, self.above.generation],
            "example": self._example,
            "output_shape": list(self._output_shape),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state`; None: from a checkpoint of before there were events."""
        if state is None:
            return
        self._seen |= {place: step for place, step in state["seen"].items() if place in self._events}
        self._fired = set(state["fired"])
        self._plateaus = {place: PlateauState(**own) for place, own in state["plateaus"].items()}
        self._kept = dict(state["kept"])
        self._phases = [Phase.from_json(phase) for phase in state["phases"]]
        self._phased, self._loss, self._example = state["phased"], state["loss"], state["example"]
        self._output_shape = tuple(state["output_shape"])
        self.below, self.above = (Boundary(generation) for generation in state["generations"])
        self._renew_watch()

    def _renew_watch(self) -> None:
        """The structure is another: what was found of it is found again, and a new optimiser is listened to."""
        self._coupled, self._is_installed = {}, False
        self._listen()

    def _listen(self) -> None:
        """See the gradients of updates at which an event asks for them."""
        asks = any(event.action.asks & Measure.GRADIENT for event in self._events.values())
        self._body.parts.updater.on_gradients = self._take_gradients if asks else None

    def _take_gradients(self, step: int, gradients: Mapping[str, Tensor]) -> None:
        if any(self._events[place].action.asks & Measure.GRADIENT for place in self._due(step)):
            self._gradients = {name: gradient.clone() for name, gradient in gradients.items()}

    def _due(self, step: int) -> list[int]:
        """Places of the events that are due after an update at this step; those missed since the last one, too."""
        return [place for place in self._events if place in self._fired or self._has_come(place, step)]

    def _has_come(self, place: int, step: int) -> bool:
        when = self._events[place].when
        if isinstance(when, OnPlateau):
            return False
        since = self._seen[place] + 1
        return any(
            when.due(each, steps_per_epoch=self._steps_per_epoch, draw=lambda at: self._draw(place, at))
            for each in range(since, step + 1)
            if self._steps is None or each < self._steps - 1
        )

    def _measure(self, step: int) -> None:
        """Take down how wide, how dense and how costly the stage is."""
        self._counted = dict(self._recorder.totals.changes)
        module, recorder = self._body.module, self._recorder
        local = {full: name for name, full in self._body.naming.of(self._body.module).items()}
        recorder.measure("structure/parameters", step, sum(p.numel() for p in module.parameters()))
        for layer in dict.fromkeys(layer for event in self._events.values() for layer in event.action.layers or ()):
            if f"{layer}.weight" in local:
                recorder.measure(f"width/{layer}", step, module.get_parameter(local[f"{layer}.weight"]).shape[0])
        for name, mask in self._body.parts.updater.masks.items():
            recorder.measure(f"density/{name}", step, float(mask.float().mean()))
        if self._example is not None:
            recorder.measure("structure/mflop_per_sample", step, self._flops(self._example) / 1e6)

    def _flops(self, example: Tensor) -> int:
        with self._generators.forked():
            return forward_flops(self._body.module, example)

    def _check_runs(self) -> None:
        """Raise `ValueError` if what was attached does not fit."""
        if self._example is None:
            return
        try:
            self._flops(self._example)
        except Exception as error:
            raise ValueError(
                f"the stage cannot run any more on {tuple(self._example.shape)}: {type(error).__name__}: {error}. What "
                "the event has put in must fit what is there then."
            ) from error

    def _is_measured(self, event: Event) -> bool:
        asks = event.action.asks
        if asks & Measure.GRADIENT and not self._gradients:
            return False
        return all(self._watch.has(layer, asks) for layer in event.action.layers or ())

    def _draw(self, place: int, step: int) -> float:
        return key(self._seed, f"event/{place}", step) / 2**63

    def _keyed(self, event: str, step: int) -> Any:
        return lambda name: generator(self._seed, f"event/{event}/{name}", step)

    def _view(self, place: int | None = None) -> View:
        return View(
            self._body,
            example=self._example,
            gradients=self._gradients,
            watch=self._watch,
            state={} if place is None else self._kept.get(place, {}),
            known=self._coupled,
        )

    def _carry_out(self, place: int, event: Event, step: int) -> list[Reshape]:
        plan = event.action.plan(self._view(place), step=step, keyed=self._keyed(event.label, step))
        messages: list[Reshape] = []
        match plan:
            case UnitPlan():
                for change in plan.changes:
                    messages += self._change_units(event, change, plan.given.get(change.layer, {}), step)
                self._kept[place] = plan.state
            case TensorPlan():
                self._apply(plan.tensors)
            case PartPlan():
                child = self._body.attach(plan.edit, self._keyed(event.label, step))
                self._renew_watch()
                self._check_runs()
                if plan.ramp is not None and isinstance(plan.edit, Component):
                    self._phases.append(Phase(event=event.label, gates=plan.edit.gates(child), ramp=plan.ramp))
                    self._phases[-1].open_(self._body.module)
            case MaskPlan():
                updater = self._body.parts.updater
                self._body.hold(plan.after(updater.masks, updater.parameters))
        self._recorder.changed(step, event.label, "nothing to do" if plan is None else str(plan))
        return messages

    def _change_units(self, event: Event, change: UnitChange, given: Mapping[str, Tensor], step: int) -> list[Reshape]:
        coupled = self._view().coupled(change.layer)
        keyed = self._keyed(event.label, step)
        own = {name: value for name, value in given.items() if name in coupled.hidden.tensors}
        tensors = change_units(coupled.hidden, change.origin, change.new, keyed=keyed, given=own)
        self._apply(tensors)
        self._watch.change(change.layer, change.origin)
        self._begin_phase(event.label, change, tensors)
        if coupled.output is None:
            return []
        if self._is_last:
            raise ValueError(
                f"the {coupled.hidden.num_units} units of {change.layer} are the network's output, which the loss "
                "reads. Choose a hidden layer."
            )
        axis, shape = coupled.output.axis, list(self._output_shape)
        at_output = UnitChange(
            layer=change.layer, origin=coupled.output.expand(change.origin, shape[axis]), new=change.new
        )
        shape[axis] = at_output.origin.num_new
        self._output_shape = tuple(shape)
        self._source.remap(at_output.origin, axis=axis, step=step)
        self.above.change(at_output.origin, axis=axis)
        told = json.dumps({"event": event.label, "axis": axis, "units": at_output.to_json()})
        return [Reshape(step=step, change=told, generation=self.above.generation)]

    def _apply(self, changes: Mapping[str, TensorChange]) -> None:
        """By global name."""
        self._body.change(changes)
        self._gradients = {
            name: map_tensor(gradient, changes[name].axes, "gradient") if name in changes else gradient
            for name, gradient in self._gradients.items()
        }
        self._renew_watch()

    def _begin_phase(self, event: str, change: UnitChange, changes: Mapping[str, TensorChange]) -> None:
        """Phases that are on their way follow; what this stage reads of new units is gated, if that is asked."""
        local = {full: name for name, full in self._body.naming.of(self._body.module).items()}
        for full, each in changes.items():
            if full.endswith(".unit_gate"):
                layer = local[full].removesuffix(".unit_gate")
                self._phases = [phase.following(layer, each.axes[0].origin) for phase in self._phases]
        if change.new.ramp is None:
            return
        gates = {
            local[full].removesuffix(".weight"): axis.origin.fresh
            for full, each in changes.items()
            for axis in each.axes
            if axis.side == "consumer" and axis.origin.fresh
        }
        if gates:
            self._phases.append(Phase(event=event, gates=gates, ramp=change.new.ramp))
            self._phases[-1].open_(self._body.module)

    def _advance_phases(self, step: int) -> None:
        """One step of the ramps for each step since the last update."""
        if self._phases:
            for _ in range(self._phased, step):
                self._phases = [phase.advanced(self._loss) for phase in self._phases]
            for phase in self._phases:
                phase.open_(self._body.module)
                self._recorder.measure(f"alpha/{phase.event}", step, phase.alpha)
            self._phases = [phase for phase in self._phases if not phase.is_over]
        self._phased = step

    @contextmanager
    def _whole(self, event: str, step: int) -> Iterator[None]:
        """Leave the old structure whole if the block fails."""
        kept = (self._source.source, self._inputs.source, list(self._phases), dict(self._kept), self.below, self.above)
        self.below, self.above = self.below.copy(), self.above.copy()
        try:
            with self._generators.forked(), self._body.restoring():
                yield
        except Exception as error:
            self._source.source, self._inputs.source, self._phases, self._kept, self.below, self.above = kept
            self._renew_watch()
            raise StructureError(
                f"event {event!r} at step {step} cannot be carried out in stage {self._index}: {error} The stage is as "
                "it was before."
            ) from error
