"""What did the steps of a run take, and at which of them did everything learn?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

from torch import nn

from dni import Layout, Participation
from experiments.li2021_lws.config import Rule, participation, units
from experiments.spans import read_trace
from pipeline.configuration.blocks import Draws

__all__ = ["Step", "full_steps", "median_ms", "read_steps", "seed_with_share"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """The milliseconds of one step of a single stage."""

    full: bool
    """Whether everything learned."""
    forward_ms: float
    backward_ms: float
    update_ms: float
    whole_ms: float | None
    """From the start of this step's forward to that of the next; None: it is the last."""


def full_steps(policy: Participation | None, network: nn.Sequential, *, steps: int, seed: int) -> list[bool]:
    """For each step of a run, whether everything learns at it."""
    if policy is None:
        return [True] * steps
    layout = Layout((tuple(name for unit in units(network) for name in unit),))
    return [len(policy.learning(step, layout, Draws(seed))) == len(layout.blocks) for step in range(steps)]


def seed_with_share(rule: Rule, network: nn.Sequential, *, first: int, steps: int) -> int:
    """The first seed with which, of `steps` steps from `first` on, exactly the rule's share lets everything learn."""
    policy, wanted = participation(rule, network), round(rule.probability * steps)
    seeds = (
        seed for seed in count() if sum(full_steps(policy, network, steps=first + steps, seed=seed)[first:]) == wanted
    )
    return next(seeds)


def read_steps(folder: Path, full: Sequence[bool]) -> list[Step]:
    """Every step of a run of one stage, from its folder.

    Args:
        folder: of the run.
        full: for each step, whether everything learned.
    """
    spans = read_trace(folder, 0)
    took = {
        operation: {span.step: span for span in spans if span.operation == operation} for operation in ("F", "B", "U")
    }
    starts = {step: span.start_s for step, span in took["F"].items()}
    return [
        Step(
            full=everything,
            **{
                f"{name}_ms": 1e3 * (took[operation][step].end_s - took[operation][step].start_s)
                for name, operation in (("forward", "F"), ("backward", "B"), ("update", "U"))
            },
            whole_ms=1e3 * (starts[step + 1] - starts[step]) if step + 1 in starts else None,
        )
        for step, everything in enumerate(full)
    ]


def median_ms(values: Iterable[float]) -> float | None:
    """Rounded; None if there are none."""
    found = list(values)
    return round(median(found), 4) if found else None
