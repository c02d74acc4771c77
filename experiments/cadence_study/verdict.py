"""Which arrangement is best, and does a cadence add anything to Adam? In words, as far as the intervals go."""

from __future__ import annotations

from collections.abc import Collection

from experiments.cadence_study.arms import ARMS, CONTROLS, UNIFORM
from experiments.cadence_study.config import COMPARISONS, RATES
from experiments.cadence_study.differences import (
    Finals,
    Interval,
    beyond_batches,
    beyond_optimizer,
    gains,
)
from experiments.cadence_study.results import Run, finalists, finals

__all__ = ["verdicts"]


def verdicts(runs: Collection[Run]) -> str:
    """A Markdown list: the best of each comparison and optimiser, and what that says of Adam."""
    own = finals(runs)
    found = {
        (comparison, optimizer): _gains(own, comparison, optimizer, finalists(runs, comparison, optimizer))
        for comparison in COMPARISONS
        for optimizer in RATES
    }
    lines = [_best(own, *where, gained) for where, gained in found.items()]
    lines += [_adam(own, comparison, found[comparison, "Adam"]) for comparison in COMPARISONS]
    return "\n".join([*lines, _instead_of_adam(own, found["samples", "SGD"])])


def _gains(own: Finals, comparison: str, optimizer: str, arms: Collection[str]) -> dict[str, Interval]:
    """Over the uniform arm, by finalist, the best first; none unless all were run on all tasks."""
    found = {arm: gains(own, comparison, optimizer, arm) for arm in arms if arm != UNIFORM}
    if any(interval is None for interval in found.values()):
        return {}
    known = {arm: interval for arm, interval in found.items() if interval is not None}
    return dict(sorted(known.items(), key=lambda item: -item[1].mean))


def _best(own: Finals, comparison: str, optimizer: str, gained: dict[str, Interval]) -> str:
    where = f"* **{COMPARISONS[comparison].capitalize()}, {optimizer}.**"
    if not gained:
        return f"{where} Not run."
    arm, gain = next(iter(gained.items()))
    text = f"{_over(arm, gain, 'uniform, every step')}."
    text = f"Best is {text}" if gain.mean > 0 else f"Best is {ARMS[UNIFORM].title}; next is {text}"
    if arm in CONTROLS:
        arm, gain = _best_divided(gained)
        text += f" With cadences of its own, best is {_over(arm, gain, 'uniform, every step')}."
    beyond = beyond_batches(own, comparison, optimizer, arm)
    return f"{where} {text} Over the uniform arm with about as many updates: {_said(beyond)}."


def _adam(own: Finals, comparison: str, gained: dict[str, Interval]) -> str:
    question = f"* **Does a cadence add anything to Adam, at {COMPARISONS[comparison]}?**"
    if not gained:
        return f"{question} Not run."
    arm, gain = _best_divided(gained)
    beyond = beyond_batches(own, comparison, "Adam", arm)
    if gain.is_above and beyond is not None and beyond.is_above:
        answer = "Yes, more than larger batches do"
    elif gain.is_above:
        answer = "Nothing that larger batches have not been seen to add"
    elif gain.is_below:
        answer = "No, it costs"
    else:
        answer = "Nothing that could be told from chance"
    return (
        f"{question} {answer}: {_over(arm, gain, 'Adam at every step')}, and {_said(beyond)} over Adam with about as "
        "many updates."
    )


def _instead_of_adam(own: Finals, gained: dict[str, Interval]) -> str:
    question = "* **Does a cadence make of SGD what Adam is, at equal samples?**"
    adam = beyond_optimizer(own, "samples", ("Adam", UNIFORM), ("SGD", UNIFORM))
    if not gained or adam is None:
        return f"{question} Not run."
    arm, gain = _best_divided(gained)
    rest = beyond_optimizer(own, "samples", ("SGD", arm), ("Adam", UNIFORM))
    return (
        f"{question} Adam over SGD, both at every step: {_said(adam)}. SGD with "
        f"{_over(arm, gain, 'SGD at every step')}; over Adam at every step: {_said(rest)}."
    )


def _best_divided(gained: dict[str, Interval]) -> tuple[str, Interval]:
    return next((arm, gain) for arm, gain in gained.items() if arm not in CONTROLS)


def _over(arm: str, gain: Interval, other: str) -> str:
    return f"*{ARMS[arm].title}*, {_said(gain)} over {other}"


def _said(interval: Interval | None) -> str:
    return "not run" if interval is None else f"{interval} points ({interval.word})"
