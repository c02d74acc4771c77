"""How does the structure of a stage change while it trains?

Events are carried out right after the first update at their step or later: measured, planned, applied. What becomes of
the units of the stage's output is told to the stage above, in its place among the activations; what the stage below
tells is followed at once. A microbatch in flight is finished with the parameters it was forwarded with, and only then
its gradients are mapped; what crosses the boundary says of which generation of the units it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dni import (
    Component,
    Coupled,
    Event,
    MaskPlan,
    Measure,
    PartPlan,
    TensorChange,
    TensorPlan,
    UnitChange,
    UnitPlan,
    change_units,
    map_tensor,
)
from pipeline.errors import StructureError
from pipeline.learners.agenda import Agenda
from pipeline.learners.body import Body
from pipeline.learners.boundary import Boundary
from pipeline.learners.flops import forward_flops
from pipeline.learners.in_flight import InFlight
from pipeline.learners.input_learner import InputLearner
from pipeline.learners.phases import Phases, gates_of
from pipeline.learners.source_learner import SourceLearner
from pipeline.learners.view import View
from pipeline.learners.watch import Watch
from pipeline.messages import Payload, Reshape
from pipeline.randomness.keyed import Generators, generator
from pipeline.stages.trace import Recorder

__all__ = ["Structure"]


class Structure:
    """The events of one stage, and what has become of it.

    Args:
        index: position of the stage in the network.
        is_last: whether its output is the network's.
        agenda: the events of the run; those whose layers the stage does not have are left out by themselves.
        seed: of every draw.
    """

    def __init__(self, *, index: int, is_last: bool = True, agenda: Agenda | None = None, seed: int = 0) -> None:
        self.agenda = agenda or Agenda()
        """When events are due."""
        self._index, self._is_last, self._seed = index, is_last, seed
        self._kept: dict[int, Any] = {}
        """What an event's last plan has left for the next, by the event's place."""
        self._example: Tensor | None = None
        """Two samples of the newest input."""
        self._output_shape: tuple[int, ...] = ()
        self._gradients: dict[str, Tensor] = {}
        """Averaged ones of the latest update, if an event asks."""
        self._watch = Watch({})
        self._is_watching = False
        """Whether the watch has found its layers, as they are since the last change."""
        self._coupled: dict[str, Coupled] = {}
        """What follows the units of a layer, as found since the last change."""
        self._measured: dict[str, int] | None = None
        """Changes by event when the stage was last measured; None: it never was."""

    def attach(
        self, body: Body, *, source: SourceLearner, inputs: InputLearner, recorder: Recorder, generators: Generators
    ) -> None:
        """Take charge of a stage; once."""
        self._body, self._source, self._inputs, self._recorder = body, source, inputs, recorder
        self._generators = generators
        self.in_flight = InFlight(body, below=Boundary(), above=Boundary())
        """Generations of what is on its way."""
        self._phases = Phases(body.module)
        self.agenda.choose(lambda layer: body.naming.has(body.module, layer))
        if self.agenda.asks(Measure.INITIAL):
            body.keep_initial()
        asked = self.agenda.layers()
        self._watch = Watch({layer: asks for layer, asks in asked.items() if body.naming.has(body.module, layer)})
        self._listen()

    @contextmanager
    def watching(self, x: Payload) -> Iterator[None]:
        """Take down in the block, a forward of training, what events ask for."""
        if not self.agenda:
            yield
            return
        if isinstance(x, Tensor):
            self._example = x[:2].detach().clone()
        if self._watch.is_needed and not self._is_watching:
            with self._generators.forked():
                self._watch.install(self._view().read)
            self._is_watching = True
        with self._watch.forward():
            yield

    def leaves(self, h: Payload) -> None:
        """The output of a forward of training, with its graph."""
        if self.agenda and isinstance(h, Tensor):
            self._output_shape = tuple(h.shape)
        if self._watch.is_needed and isinstance(h, Tensor):
            self._watch.leaves(h)

    def change(self, step: int, *, version: int) -> list[Reshape]:
        """Carry out what is due after the update of this step; what the stage above has to follow, in order.

        Raises:
            StructureError: an event cannot be carried out; the structure is what it was before.
        """
        recorder = self._recorder
        self._phases.advance(
            step, self.agenda.loss, tell=lambda event, alpha: recorder.measure(f"alpha/{event}", step, alpha)
        )
        messages: list[Reshape] = []
        for place in self.agenda.due(step):
            event = self.agenda.events[place]
            if not self._is_measured(event):
                continue  # nothing was learned from since the last change; it waits for an update where something was
            recorder.begin()
            with self._whole(event.label, step):
                messages += self._carry_out(place, event, step)
            self.agenda.done(place, step)
            recorder.end("C", step, version=version)
        if self.agenda and recorder.totals.changes != self._measured:
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
            keeps = change.origin.is_scaled or change.new.alpha == 0 or change.new.ramp is not None
            if keeps and (change.origin.is_scaled or change.origin.fresh):
                coupled.hidden.check_kept(change.origin)
            tensors = change_units(
                coupled.hidden, change.origin, change.new, keyed=self._keyed(told["event"], message.step)
            )
            self._apply(tensors)
            self._phase_in(told["event"], change, tensors)
            self._inputs.remap(change.origin, axis=told["axis"], step=message.step)
            self.in_flight.below.change(change.origin, axis=told["axis"])
            if self._example is not None:
                self._example = change.origin.raised(0).apply(self._example, told["axis"])
            self.in_flight.below.check(message.generation, where=f"stage {self._index}, event {told['event']}")
        self._recorder.end("C", message.step, version=version)
        self._recorder.changed(message.step, told["event"], f"follows stage {self._index - 1}")
        self._measure(message.step)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run has to know: events that were dealt with, phases on their way, generations."""
        boundaries = self.in_flight.below, self.in_flight.above
        return {
            "agenda": self.agenda.state_dict(),
            "kept": dict(self._kept),
            "phases": self._phases.state_dict(),
            "generations": [boundary.generation for boundary in boundaries],
            "example": self._example,
            "output_shape": list(self._output_shape),
        }

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from `state`; None: from a checkpoint of before there were events."""
        if state is None:
            return
        self.agenda.load_state_dict(state["agenda"])
        self._kept = dict(state["kept"])
        self._phases.load_state_dict(state["phases"])
        self._example, self._output_shape = state["example"], tuple(state["output_shape"])
        self.in_flight.below, self.in_flight.above = map(Boundary, state["generations"])
        self._renew_watch()

    def _renew_watch(self) -> None:
        """The structure is another: what was found of it is found again, and a new optimiser is listened to."""
        self._coupled, self._is_watching = {}, False
        self._listen()

    def _listen(self) -> None:
        """See the gradients of updates at which an event asks for them."""
        asks = self.agenda.asks(Measure.GRADIENT)
        self._body.parts.updater.on_gradients = self._take_gradients if asks else None

    def _take_gradients(self, step: int, gradients: Mapping[str, Tensor]) -> None:
        if any(self.agenda.events[place].action.asks & Measure.GRADIENT for place in self.agenda.due(step)):
            self._gradients = {name: gradient.clone() for name, gradient in gradients.items()}

    def _measure(self, step: int) -> None:
        """Take down how wide, how dense and how costly the stage is."""
        self._measured = dict(self._recorder.totals.changes)
        module, recorder = self._body.module, self._recorder
        local = {full: name for name, full in self._body.naming.of(self._body.module).items()}
        recorder.measure("structure/parameters", step, sum(p.numel() for p in module.parameters()))
        for layer in self.agenda.layers():
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
                    self._phases.begin(event.label, plan.ramp, gates=plan.edit.gates(child))
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
        self._phase_in(event.label, change, tensors)
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
        self.in_flight.above.change(at_output.origin, axis=axis)
        told = json.dumps({"event": event.label, "axis": axis, "units": at_output.to_json()})
        return [Reshape(step=step, change=told, generation=self.in_flight.above.generation)]

    def _apply(self, changes: Mapping[str, TensorChange]) -> None:
        """By global name."""
        self._body.change(changes)
        self._gradients = {
            name: map_tensor(gradient, changes[name].axes, "gradient") if name in changes else gradient
            for name, gradient in self._gradients.items()
        }
        self._renew_watch()

    def _phase_in(self, event: str, change: UnitChange, changes: Mapping[str, TensorChange]) -> None:
        """Phases on their way follow; what this stage reads of new units is gated, if that is asked."""
        local = {full: name for name, full in self._body.naming.of(self._body.module).items()}
        own = {local[full]: each for full, each in changes.items()}
        self._phases.follow(own)
        if change.new.ramp is not None:
            self._phases.begin(event, change.new.ramp, gates=gates_of(own))

    @contextmanager
    def _whole(self, event: str, step: int) -> Iterator[None]:
        """Leave the old structure whole if the block fails."""
        kept = self._source.source, self._inputs.source, self._phases, dict(self._kept), self.in_flight
        self._phases, self.in_flight = self._phases.copy(), self.in_flight.copy()
        try:
            with self._generators.forked(), self._body.restoring():
                yield
        except Exception as error:
            self._source.source, self._inputs.source, self._phases, self._kept, self.in_flight = kept
            self._renew_watch()
            raise StructureError(
                f"event {event!r} at step {step} cannot be carried out in stage {self._index}: {error} The stage is as "
                "it was before."
            ) from error
