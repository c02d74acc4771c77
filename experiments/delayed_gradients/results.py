"""What has been measured so far, and which rate is a method's at a staleness?

results.jsonl has a line per run and is only ever appended to. The first seed is run with every rate; the one with the
best accuracy on held-out training samples is the one that counts, and that the other seeds are run with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from experiments.records import grouped, newest

__all__ = ["FOLDER", "RESULTS", "Case", "Run", "best_rates", "counted"]

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"

Case: TypeAlias = tuple[str, int]
"""Method and staleness."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method, staleness, rate and seed: a line of results.jsonl."""

    method: str
    staleness: int
    """As intended; that of the first stages is `staleness_mean`."""
    rate: float
    seed: int
    steps: int
    held_out_accuracy: float | None
    """A fraction; None: the run diverged."""
    test_accuracy: float | None
    staleness_mean: float | None
    """Measured at the first stage: less than intended while the pipeline fills."""
    held_bytes: int
    """Of all stages: the most that is kept at a time of microbatches, of earlier weights and of velocities."""
    parameter_bytes: int
    """Of the network."""
    wall_s: float
    """Of training, on one thread, all stages in turn."""
    machine: Mapping[str, Any]
    """What it was measured on, the commit included."""

    @property
    def case(self) -> Case:
        return self.method, self.staleness


def best_rates(runs: Iterable[Run], *, seed: int = 0) -> dict[Case, float]:
    """The rate with the best held-out accuracy of one seed, by method and staleness; the lower one of equals."""
    own = sorted((run for run in runs if run.seed == seed), key=lambda run: run.rate)
    cases = dict.fromkeys(run.case for run in own)
    return {
        case: max((run for run in own if run.case == case), key=lambda run: run.held_out_accuracy or 0.0).rate
        for case in cases
    }


def counted(runs: Sequence[Run]) -> dict[Case, list[Run]]:
    """The newest run of each seed at the best rate, in the order of the seeds, by method and staleness."""
    best = best_rates(runs)
    own = newest((run for run in runs if run.rate == best.get(run.case)), lambda run: (run.case, run.seed))
    return grouped(own, lambda run: run.case)
