"""By what is the learning rate of a block multiplied that has accumulated for several steps?"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

__all__ = ["RateRule", "rate_factor"]

RateRule: TypeAlias = Literal["none", "linear", "sqrt"]
"""none: an update is an update. linear: k times the rate after k microbatches, the multirate rule h_slow = k h_fast.
sqrt: the square root of k."""


def rate_factor(rule: RateRule, num_microbatches: int) -> float:
    """The factor for an update that holds so many microbatches.

    Source: linear, Vlaar & Leimkuhler 2022 (Multirate training, arXiv 2106.10771), h_S = k h_F. Differs: the slow
    gradient is the mean over all k microbatches, not that of one, and the step is taken at once: `Multirate` and
    `BlockCadence(drifts=True)` take it in k parts.
    """
    match rule:
        case "none":
            return 1.0
        case "linear":
            return float(num_microbatches)
        case "sqrt":
            return math.sqrt(num_microbatches)
