"""What does a stage ask of whoever computes for it?

`pipeline.learners.learner` does the mathematics; `pipeline.virtual_time.timed` only takes time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.messages import Activation, Input, OutputError, Payload, Reshape
from pipeline.stages.awaited import Awaited
from pipeline.stages.stash import Forwarded

__all__ = ["StageLearner"]


class StageLearner(Protocol):
    """What a stage asks of its learner: the mathematics of one microbatch, and what is to be kept of it all."""

    @property
    def module(self) -> nn.Module:
        """The stage's part of the model."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    @property
    def phase(self) -> str:
        """What is being done, for the message of a failure."""

    @property
    def version(self) -> int:
        """Steps in which any block was applied."""

    @property
    def awaited(self) -> Awaited:
        """What its source waits for."""

    @property
    def quality(self) -> float | None:
        """The cosine of the source's gradient with the true one when they were last compared; None: never."""

    @property
    def loss(self) -> float | None:
        """The newest training loss per sample that it knows of, in 32 bits; None: nobody asks, or none was yet."""

    @property
    def generation(self) -> int:
        """Changes of structure at its output so far."""

    @property
    def generation_below(self) -> int:
        """Changes of structure at its input so far."""

    @property
    def can_imagine(self) -> bool:
        """Whether a synthetic input can be made."""

    def imagine(self, message: Input) -> Payload:
        """A synthetic input for the stage, made of the network's."""

    def learn_input(self, x: Payload, message: Activation) -> None:
        """Let synthetic inputs learn from what the stage below has sent, which they stand for."""

    def forward(
        self, message: Activation, *, learns: bool, held: bool, sync: bool, asks: bool, wanted: bool, num_due: int = 0
    ) -> Forwarded:
        """Run the module; what to keep of it. `num_due` updates will be applied before its gradient comes."""

    def evaluate(self, message: Activation) -> Forwarded:
        """Run the module in evaluation mode."""

    def loss_sum(self, entry: Forwarded) -> float:
        """The loss of an evaluation batch, summed over its samples."""

    def probe(self, message: Activation) -> Forwarded:
        """Run the module as in training, and keep its graph; nothing of the stage changes."""

    def grade_probe(self, entry: Forwarded, answer: Payload | None) -> tuple[Payload | None, dict[str, float]]:
        """What the stage below is told of the probe, and how good this stage's source is on it."""

    def received(self, gradient: Payload) -> Payload:
        """What came from another stage, on this one's device."""

    def received_error(self, message: OutputError) -> OutputError:
        """What came from the last stage, on this one's device."""

    def output_error(self, entry: Forwarded, *, with_loss: bool) -> OutputError:
        """What the loss says of a microbatch, before it is pulled back; for the last stage."""

    def backward_from_source(self, entry: Forwarded) -> Payload | None:
        """Pull back what the source says; dL/dx, or None if nothing is learned."""

    def backward_late(self, entry: Forwarded) -> tuple[Payload | None, bool]:
        """Pull back what has come; dL/dx or None, and whether that was the gradient from above, as it came."""

    def learn_source(self, entry: Forwarded) -> None:
        """Let the source learn from what has come."""

    def due(self, step: int) -> bool:
        """Whether an update falls due once this step has been learned from; asked once for each, in order."""

    def update(self, step: int) -> None:
        """Apply what fell due at this step."""

    def change_structure(self, step: int) -> Sequence[Reshape]:
        """Carry out what is due after the update of this step; what the stage above has to follow, in order."""

    def follow(self, message: Reshape) -> None:
        """The stage below sends other units from here on."""

    def hear_loss(self, loss: float) -> None:
        """The stage above has reported the newest training loss that it knows of."""

    def finish(self, step: int) -> None:
        """Apply all that has been accumulated, due or not; nothing follows."""

    def check_finite(self) -> None:
        """Raise `NotFinite` if a parameter is not finite."""

    def named_tensors(self) -> dict[str, Tensor]:
        """The module's parameters and buffers under their global names."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that was learned, under global names."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the learner that `state` was taken from."""
