"""What does a stage compute for one microbatch?

Forward, estimate, backward, the source's own learning, the update: the mathematics of a stage, and nothing of its
dealings with other stages (`pipeline.stages.stage`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dni import (
    Applied,
    GradientSource,
    InputSource,
    LossGradient,
    NoGradient,
    carriers,
    like,
    map_members,
    num_samples,
)
from pipeline.errors import NotFinite
from pipeline.learners.body import Body
from pipeline.learners.carried_states import CarriedStates
from pipeline.learners.input_learner import InputLearner
from pipeline.learners.naming import Naming
from pipeline.learners.parts import MakeParts
from pipeline.learners.probe import ProbeAnswer, grade_entry, measure_output
from pipeline.learners.source_learner import SourceLearner
from pipeline.learners.structure import Structure
from pipeline.learners.updater import Updater
from pipeline.messages import Activation, Input, OutputError, Payload, Reshape
from pipeline.randomness.keyed import Generators
from pipeline.stages.awaited import Awaited
from pipeline.stages.stash import Forwarded, StashPolicy
from pipeline.stages.trace import Recorder

__all__ = ["Learner"]

_ALIGNMENT = 64
"""Bytes; of everything that PyTorch allocates, and of the tensors in a message between processes."""


class Learner:
    """A stage's module, the source of the gradient at its output, and its optimiser.

    Args:
        module: the stage's part of the model, already on `device`.
        index: position of the stage in the network, from 0.
        source: where the gradient at the module's output comes from.
        inputs: where the module's input comes from.
        parts: make what knows the module's parameters: the optimiser and more.
        naming: the names of the stage.
        recorder: takes down what is done.
        device: where it runs; what arrives is moved there.
        seed: of every draw.
        generators: what the module and the source draw from; None: the process's, which nobody else draws from.
        modifies_input: whether the module writes into its input, which then has to be copied first.
        measure_every: one in this many sync steps also compares parameter gradients; 0: none.
        stash: what is kept from a forward until its gradient comes.
        takes_every: the stage gets one in so many steps of the feed.
        structure: how its structure changes; None: it stays as it is.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        index: int,
        source: GradientSource,
        inputs: InputSource,
        parts: MakeParts,
        naming: Naming,
        recorder: Recorder,
        device: torch.device,
        seed: int,
        generators: Generators | None = None,
        modifies_input: bool,
        measure_every: int,
        stash: StashPolicy = "hold",
        takes_every: int = 1,
        structure: Structure | None = None,
    ) -> None:
        self.module = module
        self._body = Body(module, parts, naming=naming)
        self.version = 0
        """Steps in which any block was applied."""
        self.phase = "start"
        """What is being done, for the message of a failure."""
        self._index = index
        self._recorder = recorder
        self.device = device
        self._seed = seed
        self._generators = generators or Generators(seed=seed, stage=index, device=device)
        self._source = SourceLearner(
            source,
            index=index,
            seed=seed,
            generators=self._generators,
            recorder=recorder,
            measure_every=measure_every,
        )
        self._inputs = InputLearner(inputs, index=index, seed=seed, generators=self._generators, recorder=recorder)
        self._modifies_input = modifies_input
        self._stash: StashPolicy = stash
        self._carried = CarriedStates(module, every=takes_every)
        self._structure = structure or Structure(index=index)
        self._structure.attach(
            self._body, source=self._source, inputs=self._inputs, recorder=recorder, generators=self._generators
        )

    @property
    def updater(self) -> Updater:
        """The optimiser of the module's parameters."""
        return self._body.parts.updater

    @property
    def source(self) -> GradientSource:
        """Where the gradient at the module's output comes from."""
        return self._source.source

    @property
    def awaited(self) -> Awaited:
        """What the source waits for."""
        return self._source.awaited

    @property
    def quality(self) -> float | None:
        """The cosine of the source's gradient with the true one when last compared, in 32 bits; None: never."""
        return self._source.quality

    @property
    def loss(self) -> float | None:
        """The newest training loss per sample that it knows of, in 32 bits; None: nobody asks, or none was yet."""
        return self._structure.agenda.loss

    @property
    def generation(self) -> int:
        """Changes of structure at its output so far."""
        return self._structure.in_flight.above.generation

    @property
    def generation_below(self) -> int:
        """Changes of structure at its input so far."""
        return self._structure.in_flight.below.generation

    @property
    def can_imagine(self) -> bool:
        """Whether a synthetic input can be made: not before the first one that it stands for was seen."""
        return self._inputs.built

    def imagine(self, message: Input) -> Payload:
        """A synthetic input for the module, made of the network's."""
        self.phase = "synthetic input"
        assert message.x is not None
        return self._inputs.imagine(self.received(message.x), step=message.step, version=self.version)

    def learn_input(self, x: Payload, message: Activation) -> None:
        """Let synthetic inputs learn from what the stage below has sent, which they stand for."""
        self.phase = "learning of the synthetic input"
        self._inputs.learn(self.received(x), self.received(message.h), step=message.step, version=self.version)

    def forward(
        self, message: Activation, *, learns: bool, held: bool, sync: bool, asks: bool, wanted: bool, num_due: int = 0
    ) -> Forwarded:
        """Run the module in training mode, once per message, under the seed of (seed, stage, step).

        `num_due` updates will be applied before the gradient of a microbatch that is held is pulled back.
        """
        self.phase = "forward"
        self._recorder.begin()
        self._set_mode(training=True)
        x = self._input(message, requires_grad=learns and wanted)
        with (
            self._structure.watching(x),
            torch.set_grad_enabled(self._needs_graph(learns=learns, held=held)),
            self._body.parts.weights.forward(version=self.version, held=held, num_due=num_due) as weights,
            self._carried.training(message.step) as began_with,
            self._body.parts.idle.left_out(message.step, weights.replaced) as replaced,
        ):
            graph = self._run(x, message.step, replaced=replaced)
            self._structure.leaves(graph)
        forward_s = self._recorder.end("F", message.step, version=self.version, reach=message.reach)
        h = map_members(Tensor.detach, graph)
        self._body.parts.distributions.forwarded(carriers(h), message.step, version=self.version)
        self._recorder.totals.num_samples += num_samples(h)
        if sync:
            self._recorder.mark("S", message.step, version=self.version, reach=message.reach)
        return self._structure.in_flight.stamped(
            Forwarded(
                step=message.step,
                x=x,
                h=h,
                graph=graph if learns else None,
                target=self._target(message),
                version=self.version,
                learns=learns,
                held=held,
                sync=sync,
                asks=asks,
                wanted=wanted,
                forward_s=forward_s,
                weights=weights.kept,
                own_weights=weights.own,
                began_with=began_with,
            )
        )

    def evaluate(self, message: Activation) -> Forwarded:
        """Run the module in evaluation mode; nothing is kept for a backward."""
        self.phase = "evaluation"
        self._recorder.begin()
        self._set_mode(training=False)
        x = self._input(message, requires_grad=False)
        with (
            torch.no_grad(),
            self._generators.at("evaluation", message.step),
            self._carried.evaluation(message.step),
        ):
            h = self._apply(x)
        self._recorder.end_untraced("evaluation")
        return self._structure.in_flight.stamped(
            Forwarded(
                step=message.step,
                x=None,
                h=h,
                target=self._target(message),
                version=self.version,
                learns=False,
                held=False,
            )
        )

    def loss_sum(self, entry: Forwarded) -> float:
        """The loss of an evaluation batch, summed over its samples; for the last stage."""
        assert isinstance(self.source, LossGradient)
        with torch.no_grad(), self._generators.at("estimate", entry.step):
            return self.source.summed(entry.h, entry.target).item()

    def output_error(self, entry: Forwarded, *, with_loss: bool) -> OutputError:
        """What the loss says of a microbatch, before it is pulled back; for the last stage."""
        self._begin_backward(entry)
        assert isinstance(self.source, LossGradient) and isinstance(entry.estimate, Tensor)
        loss = None
        if with_loss:
            with torch.no_grad(), self._generators.at("estimate", entry.step):
                loss = self.source.per_sample(entry.h, entry.target)
        return OutputError(step=entry.step, value=entry.estimate, loss_per_sample=loss)

    def probe(self, message: Activation) -> Forwarded:
        """Run the module as in training and keep its graph; no weight, running statistic or `.grad` changes."""
        self.phase = "probe"
        self._recorder.begin()
        self._set_mode(training=True)
        x = self._input(message, requires_grad=self._index > 0)
        with torch.enable_grad(), self._carried.again({}, message.step):
            graph = self._run(x, message.step, replaced=self._copied_buffers())
        self._recorder.end_untraced("probe")
        return self._structure.in_flight.stamped(
            Forwarded(
                step=message.step,
                x=x,
                h=map_members(Tensor.detach, graph),
                graph=graph,
                target=self._target(message),
                version=self.version,
                learns=False,
                held=False,
                probe=True,
            )
        )

    def grade_probe(self, entry: Forwarded, answer: Payload | None) -> tuple[Payload | None, dict[str, float]]:
        """Grade what this stage's source says to a probe that has come back; at the last stage it turns here.

        Returns:
            What the stage below is told, packed (None if there is none), and the grades with what its output uses.
        """
        self.phase = "probe"
        self._recorder.begin()
        below, grades = grade_entry(
            entry,
            None if answer is None else ProbeAnswer.unpack(answer),
            source=self.source if self._source.built or answer is None else None,
            parameters=[p for p in self.module.parameters() if p.requires_grad],
            generators=self._generators,
            answers=self._index > 0,
        )
        grades |= measure_output(entry.h)
        entry.let_go()
        self._recorder.end_untraced("probe")
        return None if below is None else below.pack(), grades

    def backward_from_source(self, entry: Forwarded) -> Payload | None:
        """Ask the source for dL/dh and pull it back at once; dL/dx, or None if nothing is learned from this step."""
        if entry.estimate is None:
            self._begin_backward(entry)
        gradient = entry.estimate
        return None if gradient is None else self._pull_back(entry, gradient)

    def backward_late(self, entry: Forwarded) -> tuple[Payload | None, bool]:
        """Pull the gradient from above, or what the source makes of all that has come, back through the held graph.

        Returns:
            dL/dx, or None if nothing is learned from this step; and whether the gradient was used as it came.
        """
        self.phase = "backward"
        if self._stash == "recompute":
            self._forward_again(entry)
        self._structure.in_flight.translate_gradient(entry, until=entry.generation)
        self._recorder.begin()
        self._source.compare(entry, holders=self._body.parts.weights.holders(entry))
        used = self._source.estimate(entry) if entry.asks else self._source.true(entry)
        as_it_came = used is entry.gradient and not self._body.parts.weights.corrects
        return None if used is None else self._pull_back(entry, used), as_it_came

    def learn_source(self, entry: Forwarded) -> None:
        """Let the source learn from what has come."""
        self.phase = "source learning"
        self._structure.in_flight.translate_lesson(entry)
        self._source.learn(entry, version=self.version)

    def due(self, step: int) -> bool:
        """Whether an update falls due once this step has been learned from; asked once for each, in order."""
        return self.updater.due(step)

    def update(self, step: int) -> None:
        """Apply what fell due at this step, if anything has been accumulated."""
        self._update(step, self.updater.apply_due)

    def change_structure(self, step: int) -> list[Reshape]:
        """Carry out what is due after the update of this step; what the stage above has to follow, in order."""
        self.phase = "change of structure"
        return self._structure.change(step, version=self.version)

    def follow(self, message: Reshape) -> None:
        """The stage below sends other units from here on."""
        self.phase = "change of structure"
        self._structure.follow(message, version=self.version)

    def hear_loss(self, loss: float) -> None:
        """The stage above has reported the newest training loss that it knows of."""
        self._structure.agenda.hear_loss(loss)

    def rehearse(self, entry: Forwarded) -> None:
        """Pull back the gradient that an entry was given, show the source h, and update: before a run, on a copy."""
        self._source.build(entry.h)
        self.backward_late(entry)
        self.finish(entry.step)

    def fire(self, places: Collection[int], *, step: int) -> None:
        """Let these events be due after this step, by their places, and no others: before a run, on a copy."""
        self._structure.agenda.fire(places, step=step)

    def finish(self, step: int) -> None:
        """Apply all that has been accumulated, due or not."""
        self._update(step, self.updater.apply)

    def named_tensors(self) -> dict[str, Tensor]:
        """The module's parameters and buffers under their global names."""
        return self._body.named_tensors()

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learned, under global names."""
        self.updater.check_finite()
        return {
            **self._body.state_dict(),
            **self._source.state_dict(),
            "input": self._inputs.state_dict(),
            "version": self.version,
            "carried": self._carried.state_dict(),
            "structure": self._structure.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the learner that `state` was taken from; its tensors are already on the right device."""
        self._body.load_state_dict(state)
        self._source.load_state_dict(state)
        self._inputs.load_state_dict(state.get("input"))  # not in the oldest checkpoints
        self.version = state["version"]
        self._carried.load_state_dict(state.get("carried", {}))  # nor are this and the following
        self._structure.load_state_dict(state.get("structure"))

    def received(self, payload: Payload) -> Payload:
        """What came from another stage, on this one's device, and laid out as if it had come through a wire."""
        return map_members(lambda tensor: _packed(self._to_device(tensor)), payload)

    def received_error(self, message: OutputError) -> OutputError:
        """What came from the last stage, on this one's device."""
        error, loss = message.value, message.loss_per_sample
        return replace(
            message,
            value=None if error is None else _packed(self._to_device(error)),
            loss_per_sample=None if loss is None else _packed(self._to_device(loss)),
        )

    def check_finite(self) -> None:
        """Raise `NotFinite`, naming the parameter, if one is not finite."""
        self.updater.check_finite()

    def _update(self, step: int, apply: Callable[[int], list[Applied]]) -> None:
        self.phase = "update"
        parts = self._body.parts
        before = parts.movement.before(self.version, num_samples=self.updater.num_samples)
        unscaled = parts.curvature.before()
        with parts.distributions.update(self.updater, step, version=self.version):
            self._recorder.begin()
            with self._generators.at("update", step):
                applied = parts.weights.update(lambda: apply(step))
            if applied:
                self.version += 1
                self._recorder.end("U", step, version=self.version)
                parts.curvature.after(unscaled, step, source=self.source, generators=self._generators)
                parts.movement.after(before, step)
        divided = self.updater.pace.is_divided
        for update in (each for each in applied if divided and each.num_microbatches):
            self._recorder.block_updated(
                update.block,
                step,
                num_updates=update.num_updates,
                num_microbatches=update.num_microbatches,
                noise_scale=update.noise_scale,
            )

    def _needs_graph(self, *, learns: bool, held: bool) -> bool:
        if held:
            return self._stash != "recompute"
        return learns and not isinstance(self.source, NoGradient)

    def _run(self, x: Payload, step: int, *, replaced: Mapping[str, Tensor] | None) -> Payload:
        """A forward in training mode, with other tensors in the place of some of the module's own."""
        with self._generators.at("forward", step):
            return self._apply(x, replaced=replaced)

    def _apply(self, x: Payload, *, replaced: Mapping[str, Tensor] | None = None) -> Payload:
        given = map_members(torch.clone, x) if self._modifies_input else x
        h: Payload = self.module(given) if replaced is None else functional_call(self.module, dict(replaced), (given,))
        return h

    def _forward_again(self, entry: Forwarded) -> None:
        """Make the graph that was not kept, with today's weights and the same draws; running statistics stay."""
        self._recorder.begin()
        self._set_mode(training=True)
        assert entry.x is not None
        self._structure.in_flight.renew(entry)
        with self._structure.watching(entry.x), torch.enable_grad(), self._carried.again(entry.began_with, entry.step):
            weights = dict(self._body.parts.weights.forward_again(entry, version=self.version))
            with self._body.parts.idle.left_out(entry.step, weights) as replaced:
                entry.graph = self._run(entry.x, entry.step, replaced=self._copied_buffers() | dict(replaced or {}))
                self._structure.leaves(entry.graph)
        self._recorder.end("R", entry.step, version=self.version)

    def _copied_buffers(self) -> dict[str, Tensor]:
        """For a forward in training mode that is to leave the running statistics alone."""
        return {name: buffer.clone() for name, buffer in self.module.named_buffers()}

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device)

    def _begin_backward(self, entry: Forwarded) -> None:
        """Ask the source what to pull back, which is the beginning of the backward."""
        self.phase = "backward"
        self._recorder.begin()
        entry.estimate = self._source.estimate(entry)
        if isinstance(self.source, LossGradient) and self.source.latest is not None:
            self._structure.agenda.hear_loss(self.source.latest)

    def _pull_back(self, entry: Forwarded, gradient: Payload) -> Payload:
        """dL/dx, or nothing in it if nobody wants that; parameter gradients add up. The operation is already open."""
        values = carriers(gradient)
        self._check_finite(values)
        assert entry.x is not None and entry.graph is not None
        pairs = [(h, value) for h, value in zip(carriers(entry.graph), values, strict=True) if h.requires_grad]
        if pairs:  # none in a first stage that has nothing to learn
            with (
                self._generators.at("backward", entry.step),
                self._body.parts.weights.backward(entry, version=self.version),
            ):
                torch.autograd.backward([h for h, _ in pairs], [value for _, value in pairs])
        self.updater.accumulate(num_samples(entry.h), step=entry.step)
        if entry.structure == len(self._body.history):  # else the module of today does not take its input
            self._body.parts.curvature.keep(entry)
        x, wanted = entry.x, entry.wanted
        entry.let_go()
        self._recorder.end("B", entry.step, version=self.version)
        if not wanted:
            return ()
        return like(x, [torch.zeros_like(m) if m.grad is None else m.grad for m in carriers(x)])

    def _check_finite(self, values: list[Tensor]) -> None:
        for value in values:
            # One reduction is cheap; it misses nothing, and a finite sum that overflows is looked at again.
            if not math.isfinite(value.sum().item()) and not torch.isfinite(value).all():
                raise NotFinite(f"the gradient at the output of stage {self._index} holds NaN or infinity.")

    def _input(self, message: Activation, *, requires_grad: bool) -> Payload:
        self._structure.in_flight.below.check(message.generation, where=f"stage {self._index}, step {message.step}")
        x = map_members(self._to_device, message.h) if self._index == 0 else self.received(message.h)
        if requires_grad:
            for member in carriers(x):
                member.requires_grad_()
        return x

    def _target(self, message: Activation) -> Tensor | None:
        return None if message.target is None else message.target.to(self.device)

    def _set_mode(self, *, training: bool) -> None:
        if self.module.training != training:
            self.module.train(training)


def _packed(tensor: Tensor) -> Tensor:
    """Dense and aligned, so that the bits of what is computed do not depend on whether it came from another process.

    Kernels add in another order for other strides, and matrix products for addresses that are not aligned.
    """
    dense = tensor.reshape(-1).view(tensor.shape)
    return dense if dense.data_ptr() % _ALIGNMENT == 0 else dense.clone()
