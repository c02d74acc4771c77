"""What goes up and comes down when a probe asks how good every source is?

At an evaluation, when nothing is in flight, a probe batch goes up through all stages, in training mode, and comes back
as gradients: the true one, chained through every stage, and the one that each stage uses, from its own source. Nothing
learns from it. The Gradient that answers such an Activation has a packed `ProbeAnswer` for its value.
Source: the shadow comparison of PETRA (Rivaud et al. 2024). Differs: in every executor, at drained moments.

Of the batch each stage also says how many directions of its output are used, and how many of its units are silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dni import DormantUnits, GradientSource, Signal, carriers, effective_rank, grade_source, like, pull_back
from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError
from pipeline.messages import Activation, Payload
from pipeline.randomness.keyed import Generators
from pipeline.stages.stash import Forwarded

__all__ = ["ProbeAnswer", "grade_entry", "make_probe", "measure_output"]

_TAU = 0.025
"""Sokar et al. 2023: a unit of a normalised activity of at most this is dormant."""


@dataclass(frozen=True, kw_only=True)
class ProbeAnswer:
    """What a stage is told of a probe by the stage above; per floating-point member of its output, (N, *F)."""

    true: Sequence[Tensor]
    """dL/dh through all the stages above."""
    target: Sequence[Tensor] | None
    """What its source would learn from: the gradient that the stage above uses, pulled back; None if it uses none."""
    error: Tensor
    """dL/dy at the network's output, (N, ...)."""

    def pack(self) -> Payload:
        """As the value of a Gradient."""
        target = [None] * len(self.true) if self.target is None else self.target
        return (*self.true, *target, self.error)

    @staticmethod
    def unpack(value: Payload) -> ProbeAnswer:
        """From the value of a Gradient."""
        assert isinstance(value, tuple) and len(value) % 2 == 1
        *members, error = value
        half = len(members) // 2
        true = [member for member in members[:half] if member is not None]
        target = [member for member in members[half:] if member is not None]
        assert error is not None and len(true) == half
        return ProbeAnswer(true=true, target=target if len(target) == half else None, error=error)


def grade_entry(
    entry: Forwarded,
    told: ProbeAnswer | None,
    *,
    source: GradientSource | None,
    parameters: Sequence[Tensor],
    generators: Generators,
    answers: bool,
) -> tuple[ProbeAnswer | None, dict[str, float]]:
    """Grade what a stage's source says to a probe that has come back. Nothing of the stage changes.

    Args:
        entry: the probe as the stage has forwarded it, with its graph.
        told: by the stage above; None: this is the last stage, whose source is the loss.
        source: the stage's; None: it was never asked yet, so there is nothing to grade.
        parameters: the stage's, those that learn.
        generators: what the module and the source draw from.
        answers: whether there is a stage below.

    Returns:
        What that one is told, and the grades.
    """
    assert entry.x is not None and entry.graph is not None
    graph, x = carriers(entry.graph), carriers(entry.x)
    used: list[Tensor] | None = None
    grades: dict[str, float] = {}
    with generators.at("estimate", entry.step):
        if told is None:
            assert source is not None
            estimate = source.estimate(entry.h, Signal(step=entry.step, target=entry.target))
            assert estimate is not None
            used = carriers(estimate)
            told = ProbeAnswer(true=used, target=None, error=used[0])
        elif source is not None:
            gradient = None if told.target is None else like(entry.h, told.target)
            signal = Signal(step=entry.step, target=entry.target, gradient=gradient, error=told.error)
            used, grades = grade_source(source, entry.h, signal, true=told.true, graph=graph, parameters=parameters)
    if not answers:
        return None, grades
    with generators.at("backward", entry.step):
        true = pull_back(graph, x, told.true)
        target = None if used is None else pull_back(graph, x, used)
    return ProbeAnswer(true=true, target=target, error=told.error), grades


def measure_output(h: Payload) -> dict[str, float]:
    """What the output of a stage for a probe uses of its room: `effective_rank` and `dormant`, a share of units.

    The rank is that of the features about their mean, so it is less than N. Units are channels; of tokens, (N, T, C),
    those of the last axis. Of several members, it is the first one's of floating point. The cost is that of a singular
    value decomposition of (N, F).

    Returns:
        Nothing of an output that is not finite, or has no axis of units.
    """
    members = carriers(h)
    if not members or members[0].dim() < 2 or not bool(members[0].isfinite().all()):
        return {}
    rows = members[0].detach().flatten(1).double()
    dormant = DormantUnits(taus=(_TAU,), axes={"h": 2 if members[0].dim() == 3 else 1})
    dormant.update({"h": members[0]})
    return {
        "effective_rank": effective_rank(torch.linalg.svdvals(rows - rows.mean(0))),
        "dormant": dormant.result()["h"].shares[_TAU],
    }


def make_probe(test: Sequence[Batch], *, num_samples: int) -> Activation | None:
    """The probe: the first samples of the first evaluation batch; None for 0 samples.

    Args:
        test: the evaluation batches; the probe is numbered as the one after them.
        num_samples: N.

    Raises:
        ConfigurationError: there are not as many.
    """
    if num_samples == 0:
        return None
    found = 0 if not test else _first(test[0]).shape[0]
    if found < num_samples:
        raise ConfigurationError(
            f"probe_samples is {num_samples}, but the first evaluation batch holds {found} samples. Give the run test "
            "data, in batches of at least that many samples, or set probe_samples to 0."
        )
    x, target = test[0]
    cut = tuple(None if m is None else m[:num_samples] for m in x) if isinstance(x, tuple) else x[:num_samples]
    target = None if target is None else target[:num_samples]
    return Activation(step=len(test), h=cut, target=target, training=False, probe=True)


def _first(batch: Batch) -> Tensor:
    x, _ = batch
    return x if isinstance(x, Tensor) else next(m for m in x if m is not None)
