"""What is the answer to each question? In a sentence, as far as the intervals go."""

from __future__ import annotations

from collections.abc import Collection

from experiments.changing_structure.arms import ARMS, FAMILIES, LENGTHS
from experiments.changing_structure.config import SOURCE_TITLES, SOURCES, TRUE
from experiments.changing_structure.intervals import Interval, compared
from experiments.changing_structure.plan import CLAIMS, claim_cells
from experiments.changing_structure.results import Finals, Run, cell_of, finalists, finals

__all__ = ["over", "verdicts"]


def verdicts(runs: Collection[Run]) -> str:
    """A Markdown list: a sentence for each question and length, and one for each claim that was tried decoupled."""
    found = finals(runs)
    lines = [_answer(runs, found, name, length) for name, family in FAMILIES.items() for length in family.lengths]
    return "\n".join([*lines, *(_decoupled(runs, found, name) for name in CLAIMS)])


def over(found: Finals, family: str, arm: str, other: str, length: str) -> Interval | None:
    """Test points of an arm over another of its family, all tasks."""
    tasks = FAMILIES[family].tasks
    return compared(
        found,
        [cell_of(family, arm, task, length) for task in tasks],
        [cell_of(family, other, task, length) for task in tasks],
    )


def _answer(runs: Collection[Run], found: Finals, family: str, length: str) -> str:
    """Every finalist over the baseline, the best first, and the best over the next one."""
    own = FAMILIES[family]
    title = f"* **{own.title}, {LENGTHS[length]}.**" if len(own.lengths) > 1 else f"* **{own.title}.**"
    others = [arm for arm in finalists(runs, family, length) if arm != own.baseline]
    gains = {arm: over(found, family, arm, own.baseline, length) for arm in others}
    known = {arm: gain for arm, gain in gains.items() if gain is not None}
    if not known or len(known) < len(gains):
        return f"{title} Not run."
    ranked = sorted(known, key=lambda arm: -known[arm].mean)
    said = [f"{_named(family, arm)} {known[arm]} ({known[arm].word})" for arm in ranked]
    best, second = ranked[:2]
    apart = over(found, family, best, second, length)
    return (
        f"{title} In points over *{ARMS[own.baseline].title}*, the best first: {', '.join(said)}; "
        f"the first over the second: {apart} ({apart.word if apart else 'not run'})."
    )


def _named(family: str, arm: str) -> str:
    group = FAMILIES[family].group_of(arm)
    return (
        f"{group} (*{ARMS[arm].title}*)" if len(FAMILIES[family].groups.get(group, ())) > 1 else f"*{ARMS[arm].title}*"
    )


def _decoupled(runs: Collection[Run], found: Finals, family: str) -> str:
    title = f"* **{FAMILIES[family].title}, decoupled.**"
    parts, arm = [], ""
    for source in SOURCES:
        if cells := claim_cells(runs, family, source):
            base, best = cells
            gain, arm = compared(found, [best], [base]), best.arm
            if gain is not None:
                parts.append(f"{gain} with {SOURCE_TITLES[source]} ({gain.word})")
    if len(parts) < len(SOURCES):
        return f"{title} Not run."
    return (
        f"{title} *{ARMS[arm].title}* over *{ARMS[FAMILIES[family].baseline].title}*, on one task: {', '.join(parts)}; "
        f"{SOURCE_TITLES[TRUE]} are those of the tables."
    )
