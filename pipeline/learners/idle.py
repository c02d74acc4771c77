"""How does a forward leave out what does not learn at its step?

Parameters that do not learn ask for no gradient while the graph is built, so autograd builds none below the lowest that
does. What BatchNorm makes of a step at which its layer does not learn is a choice of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from dni import Block
from pipeline.stages.participants import Participants

__all__ = ["IdleBatchNorm", "IdleLayers", "normalisations"]

IdleBatchNorm: TypeAlias = Literal["follow", "hold", "evaluate"]
"""follow: as if the layer learned. hold: normalised by the batch, and the running statistics stay. evaluate: normalised
by the running statistics, which stay."""


class IdleLayers:
    """Sets aside what of a module does not learn at a step.

    Args:
        module: of the stage.
        names: global names of its parameters.
        blocks: the stage's; each parameter lies in some.
        participants: say which learn; None: all of them do.
        batch_norm: what normalisations do whose layer does not.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        names: Mapping[str, str] | None = None,
        blocks: Sequence[Block] = (),
        participants: Participants | None = None,
        batch_norm: IdleBatchNorm = "follow",
    ) -> None:
        self._participants = participants
        if participants is None:
            return
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        holding: dict[str, set[str]] = {}
        for block in blocks:
            for piece in block.pieces:
                holding.setdefault(piece.parameter, set()).add(block.name)
        self._blocks = {name: frozenset(holding[(names or {})[name]]) for name in self._parameters}
        """By parameter, the blocks that have a part in it."""
        self._batch_norm: IdleBatchNorm = batch_norm
        self._normalisations = normalisations(module) if batch_norm != "follow" else {}

    @contextmanager
    def left_out(self, step: int, replaced: Mapping[str, Tensor] | None) -> Iterator[Mapping[str, Tensor] | None]:
        """Run a forward in training mode in the block, with `replaced` in the place of some parameters, if given.

        Yields:
            What it is to be called with in the place of its own.
        """
        if self._participants is None:
            yield replaced
            return
        learning = self._participants.own(step).keys()
        idle = [name for name in self._parameters if self._blocks[name].isdisjoint(learning)]
        resting = [
            (prefix, module)
            for prefix, module in self._normalisations.items()
            if all(f"{prefix}{own}" in idle for own, _ in module.named_parameters(recurse=False))
        ]
        tensors = [(replaced or {}).get(name, self._parameters[name]) for name in idle]
        tensors = [tensor for tensor in tensors if tensor.requires_grad]
        for tensor in tensors:
            tensor.requires_grad_(False)
        for _, module in resting:
            module.train(self._batch_norm == "hold")
        kept = {
            f"{prefix}{name}": buffer.clone()
            for prefix, module in resting
            for name, buffer in module.named_buffers(recurse=False)
            if self._batch_norm == "hold"
        }
        try:
            yield {**(replaced or {}), **kept} if kept else replaced
        finally:
            for tensor in tensors:
                tensor.requires_grad_()
            for _, module in resting:
                module.train()


def normalisations(module: nn.Module) -> dict[str, nn.Module]:
    """Those with running statistics and parameters of their own, by the prefix of their names."""
    return {
        f"{name}." if name else "": each
        for name, each in module.named_modules()
        if isinstance(each, _NormBase)
        and each.track_running_stats
        and any(p.requires_grad for p in each.parameters(recurse=False))
    }
