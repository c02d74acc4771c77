"""What has been measured so far; which rate is a rule's, which rules are finalists, and how much faster are they?

results.jsonl has a line per run and is only ever appended to; of equal runs the newest counts. Everything that is
chosen is chosen on held-out samples, with the first seed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from dni import Rescale
from experiments.li2021_lws.config import EVERYTHING, GRID, INVERSE, SEEDS, Rule, Task
from experiments.records import grouped, newest, read_records
from pipeline.learners.idle import IdleBatchNorm

__all__ = [
    "FOLDER",
    "HELD_WITHIN",
    "Case",
    "Counted",
    "Run",
    "at_equal_time",
    "best_rates",
    "counted",
    "finalists",
    "read_runs",
    "shortened",
    "speed_up",
]

FOLDER = Path(__file__).parent
HELD_WITHIN = 0.005
"""Fraction of the held-out samples by which a rule may be less accurate than full SGD and still be a finalist."""

Case: TypeAlias = tuple[Task, Rule]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One rule, task, rate and seed: a line of results.jsonl."""

    net: str
    data: str
    learns: str
    probability: float
    rescale: Rescale
    batch_norm: IdleBatchNorm
    rate: float
    seed: int
    part: int
    """It had 1/part of the steps that the network's others have."""
    steps: int
    num_full: int
    """Steps at which everything learned."""
    held_out_accuracy: float | None
    """A fraction; None: it diverged."""
    test_accuracy: float | None
    forward_ms: float | None
    """Of a step, in real time, beside whatever else the machine did; these four are medians."""
    full_backward_ms: float | None
    """Of a step at which everything learned; None: there was none."""
    other_backward_ms: float | None
    update_ms: float | None
    wall_s: float
    machine: Mapping[str, Any]
    """What it was measured on, the commit included."""

    @property
    def task(self) -> Task:
        return self.net, self.data

    @property
    def rule(self) -> Rule:
        return Rule(self.learns, self.probability, self.rescale, self.batch_norm)

    @property
    def case(self) -> Case:
        return self.task, self.rule


Counted: TypeAlias = Mapping[Case, Sequence[Run]]


def read_runs(folder: Path = FOLDER) -> list[Run]:
    """All runs, in the order in which they were made."""
    return read_records(Run, folder / "results.jsonl")


def best_rates(runs: Iterable[Run]) -> dict[Case, float]:
    """The rate with the best held-out accuracy of those tried with the first seed; the lower one of equals."""
    first = sorted((run for run in runs if run.seed == SEEDS[0] and run.part == 1), key=lambda run: run.rate)
    return {case: max(own, key=_held_out).rate for case, own in grouped(first, lambda run: run.case).items()}


def counted(runs: Collection[Run]) -> dict[Case, list[Run]]:
    """The newest run of each seed at the best rate, in the order of the seeds."""
    best = best_rates(runs)
    own = (run for run in runs if run.rate == best.get(run.case) and run.part == 1)
    return grouped(newest(own, lambda run: (run.case, run.seed)), lambda run: run.case)


def shortened(runs: Collection[Run]) -> dict[Task, list[Run]]:
    """Full SGD at its rate with fewer steps, and with all: the newest of each length and seed, the shortest first."""
    best = best_rates(runs)
    own = (run for run in runs if run.rule == EVERYTHING and run.rate == best.get(run.case))
    return grouped(newest(own, lambda run: (run.task, -run.part, run.seed)), lambda run: run.task)


def finalists(own: Counted, task: Task) -> dict[str, Rule]:
    """Of the rules that let the top or all learn: the fastest that holds the accuracy, and the most accurate.

    Nobody is one before all of them and full SGD have been run; and nobody is the fastest if none holds.
    """
    cases = {rule: own.get((task, rule)) for rule in (EVERYTHING, *GRID, *INVERSE)}
    found = {rule: runs[0] for rule, runs in cases.items() if runs and runs[0].seed == SEEDS[0]}
    if len(found) < len(cases):
        return {}
    least = _held_out(found.pop(EVERYTHING)) - HELD_WITHIN
    held = [rule for rule, run in found.items() if _held_out(run) >= least]
    chosen = {"fastest": max(held, key=lambda rule: speed_up(found[rule]) or 0.0)} if held else {}
    return chosen | {"most accurate": max(found, key=lambda rule: _held_out(found[rule]))}


def speed_up(run: Run, full: Run | None = None) -> float | None:
    """How much faster back-propagation was than full SGD's.

    Args:
        run: at whose own full steps full SGD's backward was timed, if it had any.
        full: full SGD on the same task; for runs that had none.

    Returns:
        None if it diverged, or there is nothing to compare with.
    """
    whole = run.full_backward_ms or (full and full.full_backward_ms)
    num_others = run.steps - run.num_full
    if not whole or (num_others and run.other_backward_ms is None):
        return None
    return run.steps / (run.num_full + num_others * (run.other_backward_ms or 0.0) / whole)


def at_equal_time(run: Run, lengths: Sequence[Run]) -> float | None:
    """The test accuracy of full SGD with so few steps that its back-propagation took as long as that of `run`.

    Between two lengths in proportion to the logarithm of the time.

    Args:
        run: of the same seed as the full SGD that it is compared with.
        lengths: of `shortened`; those of other seeds are left out.

    Returns:
        None if that is less than the shortest had, or one of the runs is not there.
    """
    own = {each.part: each for each in lengths if each.seed == run.seed}
    faster = speed_up(run, own.get(1))
    if faster is None:
        return None
    for longer, shorter in pairwise(own[part] for part in sorted(own)):
        if longer.part <= faster <= shorter.part:
            ends = longer.test_accuracy, shorter.test_accuracy
            if ends[0] is None or ends[1] is None:
                return None
            place = math.log(faster / longer.part) / math.log(shorter.part / longer.part)
            return ends[0] + place * (ends[1] - ends[0])
    return None


def _held_out(run: Run) -> float:
    """What diverged is worse than anything."""
    return -1.0 if run.held_out_accuracy is None else run.held_out_accuracy
