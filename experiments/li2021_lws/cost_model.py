"""How much faster should back-propagation, and a whole step, be when most steps let only the top learn?"""

from __future__ import annotations

__all__ = ["backward_speed_up", "step_speed_up"]


def backward_speed_up(probability: float, ratio: float) -> float:
    """Of back-propagation: 1 / (p + (1 - p) r).

    Args:
        probability: p, that everything learns at a step.
        ratio: r, what a backward of the top alone costs as a part of a full one.
    """
    return 1.0 / (probability + (1.0 - probability) * ratio)


def step_speed_up(share: float, speed_up: float) -> float:
    """Of a whole step, if nothing but its backward gets faster: 1 / ((1 - b) + b / S).

    Args:
        share: b, the part of a full step that its backward takes.
        speed_up: S, of back-propagation.
    """
    return 1.0 / (1.0 - share + share / speed_up)
