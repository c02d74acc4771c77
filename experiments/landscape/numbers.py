"""Which numbers are taken from a record?"""

from __future__ import annotations

from statistics import correlation

from experiments.landscape.results import Record
from experiments.landscape.slices import Line

__all__ = ["agreement_along", "change_at", "implied_at", "lowest_along", "part_of"]


def agreement_along(line: Line) -> float:
    """The correlation of the implied change of the loss with the true one, over the points of a line."""
    start = line["true"][line["steps"].index(0.0)]
    return correlation(line["implied"], [value - start for value in line["true"]])


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


def part_of(record: Record, name: str) -> dict[str, object]:
    """What is known of the estimates of a part of the network."""
    return next(part for part in record.estimates if part["part"] == name)
