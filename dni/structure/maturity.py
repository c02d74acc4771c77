"""When do new units no longer need a count of their own?

Adam keeps one `step` per tensor and corrects the bias of its moments by it. For new units inside an old tensor either
count is wrong: kept, their updates grow to 6.6 times the learning rate; reset, those of the old units begin at 0.3
times and fall to 0.15. So new units are a piece of their own, with its own count, until the correction no longer
differs (see `dni.structure.pieces`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import ASGD, SGD, Adagrad, Adam, Adamax, NAdam, Optimizer, RAdam

from dni.structure.optimizer_state import State, slots_of

__all__ = ["age", "correction_gap", "moment_ratio"]


def correction_gap(optimizer: Optimizer, group: Mapping[str, Any], states: Iterable[State]) -> float:
    """How far pieces of a weight are from being updated alike; 0 where nothing depends on their counts.

    The largest difference, among pieces, of any factor that follows from a piece's own count: beta1^t and beta2^t for
    Adam and AdamW (the bias correction is one minus them); beta1^t for Adamax; for RAdam the rectification beside them,
    for NAdam its momentum; Adagrad's decay of the learning rate (`lr_decay`), ASGD's rate and averaging; SGD's
    dampening, which spares the first update. SGD without dampening, RMSprop, Adadelta and Rprop have none.

    Args:
        optimizer: of whatever parameters; left as it is.
        group: the options that all of the pieces are trained with.
        states: one for each piece.

    Raises:
        TypeError: the optimiser's state is not kept element by element.
    """
    slots_of(optimizer)
    factors = [_factors(optimizer, group, state) for state in states]
    return max((max(column) - min(column) for column in zip(*factors, strict=True)), default=0.0)


def age(state: State) -> tuple[float, bool]:
    """Larger for a state that has seen more updates."""
    return _count(state), bool(state)


def moment_ratio(name: str, optimizer: Optimizer, group: Mapping[str, Any], *, young: State, old: State) -> float:
    """What a moment of the younger state is multiplied by to be the same, once corrected by the count of the older."""
    if _count(young) in (0, _count(old)):
        return 1.0
    if isinstance(optimizer, NAdam) and name == "exp_avg":
        return _nesterov(young, group) / _nesterov(old, group)
    if isinstance(optimizer, Adam | RAdam | NAdam) or (isinstance(optimizer, Adamax) and name == "exp_avg"):
        beta = float(group["betas"][0 if name == "exp_avg" else 1])
        return float((1 - beta ** _count(old)) / (1 - beta ** _count(young)))
    return 1.0


def _factors(optimizer: Optimizer, group: Mapping[str, Any], state: State) -> tuple[float, ...]:
    """What the next update of a piece depends on beside its gradient and its moments."""
    count = _count(state)
    match optimizer:
        case SGD():
            return (group["dampening"] if state.get("momentum_buffer") is None and group["momentum"] else 0.0,)
        case Adam():
            return tuple(float(beta) ** count for beta in group["betas"])
        case Adamax():
            return (group["betas"][0] ** count,)
        case RAdam():
            return (*(beta**count for beta in group["betas"]), _rectification(count, group["betas"][1]))
        case NAdam():
            return float(state.get("mu_product", 1.0)), _momentum(count, group), group["betas"][1] ** count
        case Adagrad():
            return (1 / (1 + count * group["lr_decay"]),)
        case ASGD():
            rate = (1 + group["lambd"] * float(group["lr"]) * count) ** -group["alpha"]
            return rate, 1 / max(1, count - group["t0"])
        case _:
            return ()


def _count(state: State) -> float:
    step = state.get("step", 0)
    return float(step.item() if isinstance(step, Tensor) else step)


def _rectification(count: float, beta: float) -> float:
    """RAdam's r_t, 0 while it is not rectified (Liu et al. 2019, arXiv 1908.03265, algorithm 2)."""
    if not count:
        return 0.0
    longest = 2 / (1 - beta) - 1
    length = longest - 2 * count * beta**count / (1 - beta**count)
    if length <= 5:
        return 0.0
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


def _momentum(count: float, group: Mapping[str, Any]) -> float:
    """NAdam's mu_t (Dozat 2016, as torch has it)."""
    return float(group["betas"][0] * (1 - 0.5 * 0.96 ** (count * group["momentum_decay"])))


def _nesterov(state: State, group: Mapping[str, Any]) -> float:
    """What NAdam multiplies its first moment by in an update."""
    following = _momentum(_count(state) + 1, group)
    return following / (1 - float(state["mu_product"]) * following)
