"""How is a number written that was measured several times?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

__all__ = ["spread"]


def spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation; of a single value no deviation.

    Args:
        values: at least one.
        form: of a number, as ".2f"; a sign that it asks for stands before the mean alone.
    """
    text = f"{mean(values):{form}}"
    return f"{text} ± {stdev(values):{form.removeprefix('+')}}" if len(values) > 1 else text
