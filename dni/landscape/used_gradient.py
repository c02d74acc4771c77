"""Which gradient do the parameters of a decoupled network get, at any point?"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni.landscape.direction import Point
from dni.landscape.network_loss import Batches, count_samples, leaves
from dni.landscape.still_copy import Mode, StillCopy, drawing_from
from dni.measures.probe import ask
from dni.members import Members, carriers, like
from dni.sources.source import GradientSource, Signal

__all__ = ["UsedGradient"]


class UsedGradient:
    """The gradient per sample that stages learn from, as a function of their parameters by name. A `Field` for slices.

    A microbatch goes up through all stages, and each stage pulls back what its own source gives at its output:
    (1/N) Σ_n (∂h_n/∂θ)ᵀ δ̂_n. Below, a source is told what the stage above pulled back to its input, as in training; so
    with `TrueGradient` everywhere this is backprop, and lateness is not seen.
    Names are those of `nn.Sequential(*stages)`, so that one point serves this and the true loss. A stage whose source
    gives nothing, or asks for what is not known here (the loss of each sample, the network's input), has no gradient.

    Args:
        stages: from the first to the last.
        sources: the source at each stage's output, built; the last is the loss. Copied, as the stages are.
        batches: kept as they are; at least one.
        step: of the signal, for sources that follow a schedule.
        mode: which of the stages' two ways of running is looked at.
        seed: of dropout's draws in training mode; those of a batch are the same at every point, and in `NetworkLoss`.

    Raises:
        ValueError: there is no source for each stage, or no sample.
        TypeError: a stage cannot be copied.
    """

    def __init__(
        self,
        stages: Sequence[nn.Module],
        sources: Sequence[GradientSource],
        batches: Batches,
        *,
        step: int = 0,
        mode: Mode = "eval",
        seed: int = 0,
    ) -> None:
        if len(stages) != len(sources) or not stages:
            raise ValueError(
                f"there must be a source at the output of each stage, got {len(stages)} stages and {len(sources)} "
                "sources. The last stage's is the loss, LossGradient."
            )
        self._num_samples = count_samples(batches)
        self._stages = [StillCopy(stage, mode) for stage in stages]
        self._sources = [copy.deepcopy(source) for source in sources]  # some note what they last saw
        self._batches, self._step, self._seed = tuple(batches), step, seed

    @property
    def start(self) -> dict[str, Tensor]:
        """The stages' parameters by name, as they were when this was made."""
        return {
            f"{index}.{name}": own for index, stage in enumerate(self._stages) for name, own in stage.parameters.items()
        }

    def __call__(self, point: Point) -> dict[str, Tensor]:
        """The gradient per sample of the parameters in the point, of those stages that have one.

        Raises:
            ValueError: a name or a shape is none of the stages'.
        """
        if unknown := [name for name in point if self._stage_of(name) is None]:
            raise ValueError(
                f"a point's names must begin with a stage's index, 0 to {len(self._stages) - 1}, and a dot, as in "
                f"nn.Sequential(*stages); got {', '.join(unknown)}."
            )
        found: dict[str, Tensor] = {}
        with torch.enable_grad():
            for batch in range(len(self._batches)):
                for name, gradient in self._of_batch(point, batch).items():
                    found[name] = found.get(name, torch.zeros_like(gradient)) + gradient / self._num_samples
        return found

    def _of_batch(self, point: Point, batch: int) -> dict[str, Tensor]:
        x, target = self._batches[batch]
        inputs: list[list[Tensor]] = []
        outputs: list[Members] = []
        points: list[dict[str, Tensor]] = []
        with drawing_from(self._seed + batch, self._stages):  # as for the network as a whole
            for index, stage in enumerate(self._stages):
                own = {name.partition(".")[2]: value for name, value in point.items() if self._stage_of(name) == index}
                stage.check(own)
                own |= leaves({name: value for name, value in own.items() if name in stage.parameters})
                entering = [member.detach().requires_grad_() for member in carriers(x)]
                h = stage.run(own, _replaced(x, entering))
                inputs, outputs, points = [*inputs, entering], [*outputs, h], [*points, own]
                x = h
            return self._down(inputs, outputs, points, target)  # a source may draw, too

    def _down(
        self,
        inputs: list[list[Tensor]],
        outputs: list[Members],
        points: list[dict[str, Tensor]],
        target: Tensor | None,
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        gradient: Members | None = None
        error: Tensor | None = None
        for index in reversed(range(len(self._stages))):
            h = _replaced(outputs[index], [member.detach() for member in carriers(outputs[index])])
            signal = Signal(step=self._step, target=target, gradient=gradient, error=error)
            used = ask(self._sources[index], h, signal)
            gradient = None
            if used is None:
                continue
            if index == len(self._stages) - 1:
                error = used[0]
            own = {name: leaf for name, leaf in points[index].items() if leaf.requires_grad}
            to_parameters, to_input = _pulled(outputs[index], used, list(own.values()), inputs[index])
            found |= {f"{index}.{name}": pulled for name, pulled in zip(own, to_parameters, strict=True)}
            if index:
                gradient = like(outputs[index - 1], to_input)
        return found

    def _stage_of(self, name: str) -> int | None:
        head = name.partition(".")[0]
        return int(head) if head.isdecimal() and int(head) < len(self._stages) else None


def _replaced(h: Members, values: Sequence[Tensor]) -> Members:
    """The same members, those of floating point with these values."""
    if not isinstance(h, tuple):
        return values[0] if values else h
    remaining = iter(values)
    return tuple(next(remaining) if m is not None and m.is_floating_point() else m for m in h)


def _pulled(
    h: Members, gradient: Sequence[Tensor], parameters: list[Tensor], x: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """(∂h/∂θ)ᵀ g and (∂h/∂x)ᵀ g; zero where h does not depend on one."""
    pairs = [(member, g) for member, g in zip(carriers(h), gradient, strict=True) if member.requires_grad]
    wanted = [*parameters, *x]
    if not pairs or not wanted:
        pulled = [torch.zeros_like(each) for each in wanted]
    else:
        ends, gradients = zip(*pairs, strict=True)
        pulled = list(torch.autograd.grad(ends, wanted, gradients, materialize_grads=True))
    return pulled[: len(parameters)], pulled[len(parameters) :]
