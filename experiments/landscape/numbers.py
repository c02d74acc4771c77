"""Which numbers are taken from a record?"""

from __future__ import annotations

import math
from statistics import correlation
from typing import Any

from experiments.landscape.results import Record
from experiments.landscape.slices import Line

__all__ = ["agreement_along", "change_at", "implied_at", "lowest_along", "part_of", "samples_to_beat"]


def agreement_along(line: Line, *, within: float = math.inf) -> float:
    """The correlation of the implied change of the loss with the true one, over the points up to a number of steps."""
    places = [place for place, step in enumerate(line["steps"]) if abs(step) <= within]
    return correlation([line["implied"][place] for place in places], [line["true"][place] for place in places])


def change_at(line: Line, step: float) -> float:
    """The true change of the loss at a step."""
    return line["true"][line["steps"].index(step)] - line["true"][line["steps"].index(0.0)]


def implied_at(line: Line, step: float) -> float:
    """The change of the loss at a step, as the used gradient implies it."""
    return line["implied"][line["steps"].index(step)]


def lowest_along(line: Line) -> tuple[float, float]:
    """Where the true loss is lowest, in steps (0: where the line begins), and the change of the loss there."""
    place = min(range(len(line["true"])), key=lambda k: line["true"][k])
    return line["steps"][place], change_at(line, line["steps"][place])


def samples_to_beat(record: Record, part: str) -> float:
    """The least B at which estimates of the true gradient are closer to g* than those of the used one of as many.

    Twice the largest B if there is none.
    """
    sizes = {int(key): own for key, own in part_of(record, part).items() if key.isdecimal()}
    better = [size for size, own in sizes.items() if own["true_to_truth"] > own["used_to_truth"]]
    return float(min(better, default=2 * max(sizes)))


def part_of(record: Record, name: str) -> dict[str, Any]:
    """What is known of the estimates of a part of the network."""
    return next(part for part in record.estimates if part["part"] == name)
