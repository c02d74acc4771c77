"""How are the weights, the gradients and the output of a stage spread, and how does that change?

One in so many updates is shown as histograms: the output of the first microbatch that the weights to be updated have
forwarded, the averaged gradients, and the weights that come of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from pipeline.learners.updater import Updater
from pipeline.stages.trace import Recorder

__all__ = ["DistributionMeter"]


class DistributionMeter:
    """Shows the updates of one stage.

    Args:
        module: the stage's module; all that learns in it is shown.
        names: global name of every entry of the module's state dict.
        recorder: takes the histograms down, as `weights/NAME`, `weight_gradients/NAME` and `outputs/h`.
        every: one in so many updates is shown; 0: none.
    """

    def __init__(self, module: nn.Module, *, names: Mapping[str, str], recorder: Recorder, every: int) -> None:
        self._weights = {names[name]: p for name, p in module.named_parameters() if p.requires_grad}
        self._recorder = recorder
        self._every = every
        self._shown: int | None = None
        """The version whose output was shown last."""

    def forwarded(self, members: Iterable[Tensor], step: int, *, version: int) -> None:
        """The stage has made this output, with its weights of this version."""
        if not self._is_due(version) or version == self._shown:
            return
        self._shown = version
        for number, member in enumerate(members):
            self._recorder.distribution(f"outputs/{f'h{number}' if number else 'h'}", step, member)

    @contextmanager
    def update(self, updater: Updater, step: int, *, version: int) -> Iterator[None]:
        """In the block the stage's weights of this version may be updated."""
        if not self._is_due(version):
            yield
            return
        listener, heard = updater.on_gradients, False

        def hear(at: int, gradients: Mapping[str, Tensor]) -> None:
            nonlocal heard
            heard = True
            for name, gradient in gradients.items():
                self._recorder.distribution(f"weight_gradients/{name}", at, gradient)
            if listener is not None:
                listener(at, gradients)

        updater.on_gradients = hear
        try:
            yield
        finally:
            updater.on_gradients = listener
        if heard:
            for name, weight in self._weights.items():
                self._recorder.distribution(f"weights/{name}", step, weight)

    def _is_due(self, version: int) -> bool:
        return self._every > 0 and version % self._every == 0
