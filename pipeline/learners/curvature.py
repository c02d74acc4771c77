"""How does the loss that a stage sees curve along its own updates, and which rates does that give them?

Before an update that is due for a summary the parameters are copied; after it the difference is the step that the
optimiser proposes. The summary (`dni.summarise_stage`) is made on a copy of the module with the parameters of before,
on the newest microbatches that the stage has learned from. Where the rates act, the step is then scaled by them, subset
by subset; else nothing that the training goes by has been touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dni import (
    Block,
    GradientSource,
    NoDerivativesError,
    ParameterPartition,
    Piece,
    RateMemory,
    Signal,
    StageBatch,
    StageCurvature,
    Summary,
    map_members,
    summarise_stage,
)
from pipeline.randomness.keyed import Generators
from pipeline.stages.stash import Forwarded
from pipeline.stages.trace import Recorder

__all__ = ["CurvatureMeter", "subsets_of"]


class CurvatureMeter:
    """Measures the curvature along the updates of one stage, and scales them if it is to act.

    When its structure has changed, a stage has another meter, which goes on with the rates of the subsets that still
    have their names, and makes a summary at the next update.

    Args:
        module: the stage's module; its parameters that learn are summarised.
        names: global name of every entry of the module's state dict.
        recorder: takes the measures down, as `curvature/rate/SUBSET`, and the time as `curvature`.
        chosen: what is measured; None: nothing.

    Raises:
        ValueError: the subsets miss or repeat a parameter.
    """

    def __init__(
        self, module: nn.Module, *, names: Mapping[str, str], recorder: Recorder, chosen: StageCurvature | None
    ) -> None:
        self._module = module
        self._recorder = recorder
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._chosen = chosen if self._parameters else None
        if self._chosen is None:
            return
        self._partition = subsets_of(module, names=names, chosen=self._chosen)
        self._rates = RateMemory(self._partition.names, self._chosen.settings)
        self._kept: deque[StageBatch] = deque(maxlen=self._chosen.microbatches)
        self._num_left = 0
        """Updates until a summary is due."""

    def keep(self, entry: Forwarded) -> None:
        """A microbatch was pulled back, through the structure of today."""
        if self._chosen is None:
            return
        assert entry.x is not None
        signal = Signal(step=entry.step, target=entry.target, goes_on=entry.goes_on)
        self._kept.append(StageBatch(x=map_members(Tensor.detach, entry.x), signal=signal))

    def before(self) -> Mapping[str, Tensor]:
        """The parameters as they are, if the update that follows is to be looked at."""
        if self._chosen is None or not (self._chosen.acts or self._is_due):
            return {}
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def after(self, before: Mapping[str, Tensor], step: int, *, source: GradientSource, generators: Generators) -> None:
        """An update was applied: summarise along it if that is due, and scale it if the rates act.

        A summary waits for an update that moves something, along which the loss changes: a synthesizer begins at zero.
        """
        if self._chosen is None:
            return
        with torch.no_grad():
            direction = {name: own - self._parameters[name] for name, own in before.items()}
        if self._is_due and any(bool(own.any()) for own in direction.values()):
            self._recorder.begin()
            # What makes copies and tries whether a loss repeats itself puts the process's generators aside and back.
            with generators.forked():
                said_something = self._summarise(before, direction, step, source=source)
            self._recorder.end_untraced("curvature")
            self._num_left = self._chosen.settings.period if said_something else 0
        self._num_left = max(0, self._num_left - 1)
        if self._chosen.acts:
            self._scale(before, direction)

    def state_dict(self) -> dict[str, Any]:
        """What later rates depend on: those found so far, and the microbatches that are kept."""
        if self._chosen is None:
            return {}
        return {
            "rates": self._rates.state_dict(),
            "num_left": self._num_left,
            # Clones: a view would be saved with all of the message that it came in.
            "kept": [
                [
                    map_members(torch.clone, each.x),
                    None if each.signal.target is None else each.signal.target.clone(),
                    each.signal.step,
                    each.signal.goes_on,
                ]
                for each in self._kept
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; one without anything is of a run that measured nothing."""
        if self._chosen is None or not state:
            return
        self._rates.load_state_dict(state["rates"])
        self._num_left = state["num_left"]
        self._kept.clear()
        for x, target, step, goes_on in state["kept"]:
            self._kept.append(StageBatch(x=x, signal=Signal(step=step, target=target, goes_on=goes_on)))

    def followed(self) -> dict[str, Any]:
        """What the meter of the stage as it will be goes on from: inputs of before need not fit it."""
        state = self.state_dict()
        return {**state, "num_left": 0, "kept": []} if state else {}

    @property
    def _is_due(self) -> bool:
        return self._num_left == 0 and len(self._kept) > 0

    def _summarise(
        self, before: Mapping[str, Tensor], direction: Mapping[str, Tensor], step: int, *, source: GradientSource
    ) -> bool:
        """Take a summary in, unless it says that nothing changes; whether it has said something."""
        try:
            summary = summarise_stage(
                self._module, source, list(self._kept), direction, self._partition, parameters=before
            )
        except NoDerivativesError:  # whether training can go on is not for who looks at it to say
            self._rates.miss()
        else:
            if bool(summary.flat.all()):
                return False
            self._report(summary, step, found=self._rates.learn(summary, still=self._partition.still(direction)))
        self._recorder.measure("curvature/unsolved", step, self._rates.num_unsolved)
        return True

    @torch.no_grad()
    def _scale(self, before: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> None:
        for name, rate in self._partition.spread(self._rates.lent_rates).items():
            if rate != 1.0:  # else the step is the optimiser's, to the bit
                self._parameters[name].copy_(before[name] - rate.to(before[name]) * direction[name])

    def _report(self, summary: Summary, step: int, *, found: Tensor) -> None:
        """Take down what a summary says, per sample, of each subset and of the step as a whole."""
        assert self._chosen is not None
        measures = {"rate": found, "gradient": summary.gradient, "hessian": summary.hessian.diagonal()}
        if self._chosen.acts:
            measures["used_rate"] = self._rates.lent_rates
        for measure, values in measures.items():
            for subset, value in zip(summary.names, values.tolist(), strict=True):
                if value == value:  # the rule has said something of this subset
                    self._recorder.measure(f"curvature/{measure}/{subset}", step, value)
        self._recorder.measure("curvature/decrease", step, _decrease(summary, found.nan_to_num(0.0)))
        self._recorder.measure("curvature/decrease_proposed", step, _decrease(summary, torch.ones_like(found)))
        if self._chosen.acts and self._rates.num_lent:
            self._recorder.measure("curvature/lent_rates", step, self._rates.num_lent)


def subsets_of(module: nn.Module, *, names: Mapping[str, str], chosen: StageCurvature) -> ParameterPartition:
    """The subsets of a stage, of names in the whole network, over its parameters by their names in the stage.

    Raises:
        ValueError: they miss or repeat a parameter.
    """
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    local = {names[name]: name for name in shapes}
    partition = chosen.partition({names[name]: shape for name, shape in shapes.items()})
    blocks = [
        Block(each.name, tuple(Piece(local[p.parameter], p.box) for p in each.pieces)) for each in partition.blocks
    ]
    return ParameterPartition(shapes=shapes, blocks=tuple(blocks))


def _decrease(summary: Summary, rates: Tensor) -> float:
    """By how much the quadratic model says that a step scaled by these lowers the loss."""
    return float(summary.gradient @ rates - rates @ summary.hessian @ rates / 2)
