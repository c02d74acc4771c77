"""Which runs are there to be made, in which order, and how many steps does each take?

In the order of what they are worth, so that a part of them is of use: equal samples first, screening before finals,
and networks and data in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from dni import RateRule
from experiments.cadence_study.arms import ARMS, CONTROLS, steps_for_updates
from experiments.cadence_study.config import (
    CHOSEN_ON,
    COMPARISONS,
    FULL_SEEDS,
    RATES,
    SCREENING_SEED,
    SEEDS,
    SIZES,
    TASKS,
    Task,
    rules_of,
    shapes_of,
)
from experiments.cadence_study.results import NUM_BEST, Cell, Run, choices, finalists, rates_to_try, rules, screened

__all__ = ["FULL", "ROUNDS", "Job", "full_jobs", "num_planned", "round_of", "steps_of"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    size: str = "small"
    comparison: str
    task: Task
    optimizer: str
    arm: str
    rule: RateRule
    rate: float
    seed: int
    steps: int

    def __str__(self) -> str:
        return (
            f"{COMPARISONS[self.comparison]}, {self.task.title}, {self.optimizer}, {ARMS[self.arm].title}, "
            f"rule {self.rule}, rate {self.rate:g}, seed {self.seed}, {self.steps} steps"
        )


def steps_of(cell: Cell, screened: Mapping[Cell, Run]) -> int | None:
    """Microbatches of a run.

    Equal samples: the same for all. Equal updates: as many as it takes to update a parameter as often as every other
    arm does, on the average over the parameters; of an arm that decides while it learns, as often as it did where
    samples were equal. None: that has not been run yet.
    """
    size = SIZES["small"]
    if cell.comparison == "samples":
        return size.steps
    if (foreseen := steps_for_updates(cell.arm, shapes_of(cell.task), size.updates)) is not None:
        return foreseen
    run = screened.get(cell._replace(comparison="samples"))
    if run is None or not run.updates_per_parameter:
        return None
    return round(size.updates * run.steps / run.updates_per_parameter)


def rule_jobs(runs: Collection[Run]) -> list[Job]:
    """Equal samples: every rule with every rate, where rules are chosen."""
    return [
        _job(Cell("samples", task, optimizer, arm), rule, rate, seed=SCREENING_SEED, steps=SIZES["small"].steps)
        for arm in ARMS
        for optimizer, rates in RATES.items()
        for rule in rules_of(arm, optimizer)
        for rate in rates
        for task in TASKS
        if task.data == CHOSEN_ON
    ]


def rate_jobs(runs: Collection[Run]) -> list[Job]:
    """Equal samples: every rate on the other data, with the arm's rule."""
    return _rate_jobs(runs, "samples", [task for task in TASKS if task.data != CHOSEN_ON])


def update_jobs(runs: Collection[Run]) -> list[Job]:
    """Equal updates: two rates on all data, with the rule that was chosen where samples were equal."""
    return _rate_jobs(runs, "updates", TASKS)


def sample_finals(runs: Collection[Run]) -> list[Job]:
    """Equal samples: the finalists with the other seeds."""
    return _final_jobs(runs, "samples")


def update_finals(runs: Collection[Run]) -> list[Job]:
    """Equal updates: the finalists with the other seeds."""
    return _final_jobs(runs, "updates")


def full_jobs(runs: Collection[Run]) -> list[Job]:
    """The finalists of equal samples, at the large size and with the rules and rates of the small one."""
    return _final_jobs(runs, "samples", size="large", seeds=FULL_SEEDS)


ROUNDS: Mapping[str, Callable[[Collection[Run]], list[Job]]] = {
    "equal samples: rules and rates": rule_jobs,
    "equal samples: rates on the other data": rate_jobs,
    "equal samples: finals": sample_finals,
    "equal updates: rates": update_jobs,
    "equal updates: finals": update_finals,
}
"""Each builds upon all of those before it."""
FULL = "larger sizes (--full)"


def num_planned() -> dict[str, int]:
    """Runs of each round."""
    num_others = sum(task.data != CHOSEN_ON for task in TASKS)
    num_rates = sum(map(len, RATES.values()))
    num_tried = sum(len(rules_of(arm, optimizer)) * len(rates) for arm in ARMS for optimizer, rates in RATES.items())
    num_finals = len(TASKS) * len(RATES) * (len(CONTROLS) + NUM_BEST)
    counts = (
        (len(TASKS) - num_others) * num_tried,
        num_others * num_rates * len(ARMS),
        num_finals * len(SEEDS),
        len(TASKS) * 2 * len(RATES) * len(ARMS),
        num_finals * len(SEEDS),
    )
    return dict(zip(ROUNDS, counts, strict=True)) | {FULL: num_finals * len(FULL_SEEDS)}


def round_of(run: Run) -> str:
    """The name of the round that made a run."""
    rule_round, rate_round, sample_round, update_round, final_round = ROUNDS
    match run:
        case Run(size="large"):
            return FULL
        case Run(comparison="samples", seed=seed, data=data) if seed == SCREENING_SEED:
            return rule_round if data == CHOSEN_ON else rate_round
        case Run(comparison="updates", seed=seed) if seed == SCREENING_SEED:
            return update_round
        case Run(comparison="samples"):
            return sample_round
        case _:
            return final_round


def _rate_jobs(runs: Collection[Run], comparison: str, tasks: Iterable[Task]) -> list[Job]:
    chosen, found, best = rules(runs), screened(runs), choices(runs)
    cells = [Cell(comparison, task, optimizer, arm) for arm in ARMS for optimizer in RATES for task in tasks]
    planned = [(cell, chosen.get((cell.task.net, cell.optimizer, cell.arm)), steps_of(cell, found)) for cell in cells]
    return [
        _job(cell, rule, rate, seed=SCREENING_SEED, steps=steps)
        for cell, rule, steps in planned
        if rule is not None and steps is not None
        for rate in rates_to_try(cell, best)
    ]


def _final_jobs(
    runs: Collection[Run], comparison: str, *, size: str = "small", seeds: Iterable[int] = SEEDS
) -> list[Job]:
    chosen, found = choices(runs), screened(runs)
    cells = [
        Cell(comparison, task, optimizer, arm)
        for optimizer in RATES
        for arm in finalists(runs, comparison, optimizer)
        for task in TASKS
    ]
    return [
        _job(
            cell, *chosen[cell], seed=seed, steps=found[cell].steps if size == "small" else SIZES[size].steps, size=size
        )
        for seed in seeds
        for cell in cells
    ]


def _job(cell: Cell, rule: RateRule, rate: float, *, seed: int, steps: int, size: str = "small") -> Job:
    return Job(**cell._asdict(), rule=rule, rate=rate, seed=seed, steps=steps, size=size)
