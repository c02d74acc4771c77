"""Which of all that has a score go, and what stays however low its score?

Letters: n scored numbers of a group, c of them to be selected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Amount", "Count", "Scope", "Share", "lowest", "select_lowest"]


@dataclass(frozen=True)
class Share:
    """round(share n) of n."""

    value: float
    """In [0, 1]."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a share must lie in [0, 1], got {self.value}.")

    def of(self, total: int) -> int:
        """How many of `total`."""
        return round(self.value * total)


@dataclass(frozen=True)
class Count:
    """So many, of each group."""

    value: int
    """At least 0."""

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(f"a count must be at least 0, got {self.value}.")

    def of(self, total: int) -> int:
        """How many of `total`; whether there are so many is for who selects."""
        return self.value


Amount: TypeAlias = Share | Count
"""How many to select of a group."""
Scope: TypeAlias = Literal["network", "tensor"] | Mapping[str, str]
"""What is ranked together: everything; each tensor of scores (a weight's, or the units of a layer) by itself; or the
tensors that are mapped to one group's name."""


def select_lowest(
    scores: Mapping[str, Tensor], amount: Amount, *, scope: Scope = "network", floor: int = 1
) -> dict[str, Tensor]:
    """Select exactly the amount of each group, the lowest scores first, but leave `floor` of each tensor.

    The best `floor` of a tensor are safe, and others of the group go in their place. Of equal scores the first by name
    and place go first.

    Args:
        scores: by name, floating point; of parameters, or a vector of units for each layer.
        amount: of each group.
        scope: the groups.
        floor: how many of each tensor stay at least, from 1 on: no layer is pruned to nothing.

    Returns:
        What goes, as a set: bool, shaped like the scores.

    Raises:
        ValueError: a score is not finite, a group misses a name, or so many cannot go.
    """
    if floor < 1:
        raise ValueError(f"at least 1 of each layer must stay, got a floor of {floor}: a layer pruned to nothing.")
    for name, value in scores.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"scores must be finite to be ranked, found {_first_odd(value)} among those of {name}.")
    chosen: dict[str, Tensor] = {}
    for group, names in _groups(scores, scope).items():
        chosen |= _select({name: scores[name] for name in names}, group, amount, floor)
    return {name: chosen[name] for name in scores}


def lowest(scores: Tensor, count: int) -> Tensor:
    """Which are the `count` lowest of finite scores, (n,) as bool; of equal ones the first.

    By the value of the last that goes, not by sorting: an event must not take long for millions of scores.
    """
    if count == 0 or count == len(scores):
        return torch.full_like(scores, count > 0, dtype=torch.bool)
    last = _last_of(scores, count)
    chosen = scores <= last
    if int(torch.count_nonzero(chosen)) > count:
        chosen = scores < last
        equal = (scores == last).nonzero().flatten()
        chosen[equal[: count - int(torch.count_nonzero(chosen))]] = True
    return chosen


def _last_of(scores: Tensor, count: int) -> Tensor:
    """The `count`th lowest. Of many, a sample says between which two to look; if it is wrong, look at all.

    The stride is no power of 2, so that it does not go down the columns of a weight.
    """
    stride = 17
    if len(scores) > 10_000:
        expected = count / stride
        margin = int(5 * math.sqrt(min(expected, len(scores) / stride - expected))) + 5
        sample = scores[::stride].contiguous()
        first, last = int(expected) - margin, int(expected) + margin
        above = scores > sample.kthvalue(first).values if first >= 1 else torch.ones_like(scores, dtype=torch.bool)
        between = above & (scores <= sample.kthvalue(last).values) if last <= len(sample) else above
        rank = count - (len(scores) - int(torch.count_nonzero(above)))
        part = scores[between]
        if 1 <= rank <= len(part):
            return part.kthvalue(rank).values
    return scores.kthvalue(count).values


def _select(scores: Mapping[str, Tensor], group: str, amount: Amount, floor: int) -> dict[str, Tensor]:
    sizes = [value.numel() for value in scores.values()]
    count, free = amount.of(sum(sizes)), sum(max(0, size - floor) for size in sizes)
    if count > free:
        held = ", ".join(f"{name} ({size})" for name, size in zip(scores, sizes, strict=True))
        raise ValueError(
            f"{count} of {sum(sizes)} cannot go from {group}: at most {free} can, because {floor} of each of {held} "
            f"must stay, or a layer is pruned to nothing. Lower the amount ({amount}), or rank more layers together."
        )
    if len(scores) == 1:  # then whatever goes leaves the best
        return {name: lowest(value.detach().flatten(), count).view(value.shape) for name, value in scores.items()}
    flat = torch.cat([value.detach().flatten() for value in scores.values()])
    may_go = torch.cat([lowest(part, max(0, len(part) - floor)) for part in torch.split(flat, sizes)])
    goes = torch.zeros_like(may_go)
    goes[may_go] = lowest(flat[may_go], count)
    parts = torch.split(goes, sizes)
    return {name: part.view(value.shape) for (name, value), part in zip(scores.items(), parts, strict=True)}


def _groups(scores: Mapping[str, Tensor], scope: Scope) -> dict[str, list[str]]:
    if scope == "network":
        return {"the network": list(scores)} if scores else {}
    if scope == "tensor":
        return {name: [name] for name in scores}
    if isinstance(scope, str):
        raise ValueError(f"a scope is 'network', 'tensor', or a group for each name, got {scope!r}.")
    groups: dict[str, list[str]] = {}
    for name in scores:
        if name not in scope:
            raise ValueError(
                f"every tensor of scores must have a group, found none for {name}; there are {', '.join(scope)}."
            )
        groups.setdefault(scope[name], []).append(name)
    return groups


def _first_odd(value: Tensor) -> float:
    return float(value.flatten()[~torch.isfinite(value).flatten()][0])
