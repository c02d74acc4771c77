"""Which whole parts can a network get, and how are they written down?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

__all__ = ["Activation", "Component", "Edit", "Insertion", "edits_from_json", "edits_to_json"]

Activation: TypeAlias = Literal["relu", "gelu", "silu", "elu", "tanh", "sigmoid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A small network beside a layer: y = L(x) + V s(U x + b)."""

    layer: str
    """L, a Linear or Conv1d to Conv3d, grouped or not. U is of the same kind, V another Linear or a convolution of
    kernel 1."""
    units: int
    """Hidden features or channels, between U and V."""
    activation: Activation = "relu"
    """s."""
    kernel: tuple[int, ...] = ()
    """Of U, beside a convolution, without dilation, padded such that the sizes fit; empty: as L's is."""
    alpha: float = 0.0
    """V is alpha times as PyTorch's layers begin; 0 leaves the function as it is. For a phase-in by a gate: 1."""

    def __post_init__(self) -> None:
        _check_units(self.units)
        if self.activation not in get_args(Activation):
            raise ValueError(
                f"the activation must be one of {', '.join(get_args(Activation))}, got {self.activation!r}."
            )
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha, the scale of what new units add, must lie in [0, 1], got {self.alpha}.")
        _check_kernel(self.kernel)

    def gates(self, child: str) -> dict[str, tuple[int, ...]]:
        """The gates of a `Phase` for this component, attached under the name `child`."""
        return {f"{child}.2": tuple(range(self.units))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """A layer that is the identity, behind an activation, and the same activation again.

    Source: Chen et al. 2015 (arXiv 1511.05641), Net2DeeperNet. What is between the layer before and the activation (a
    norm) or behind it (dropout) is none of its business.
    """

    behind: str
    """The activation, a module for which s(s(x)) = s(x): ReLU, ReLU6 or Identity."""
    units: int
    """Features or channels that it puts out."""
    kernel: tuple[int, ...] = ()
    """Odd sizes, one for each dimension of a convolution; empty: a Linear along the last axis."""

    def __post_init__(self) -> None:
        _check_units(self.units)
        _check_kernel(self.kernel)
        if any(size % 2 == 0 for size in self.kernel):
            raise ValueError(
                f"a kernel needs a middle to be the identity, so its sizes must be odd, got {self.kernel}."
            )


Edit: TypeAlias = Component | Insertion
"""A part that was attached."""


def edits_to_json(edits: Iterable[Edit]) -> list[dict[str, Any]]:
    """Kind and settings of each."""
    return [{"kind": type(edit).__name__.lower(), **asdict(edit), "kernel": list(edit.kernel)} for edit in edits]


def edits_from_json(values: Iterable[Mapping[str, Any]]) -> tuple[Edit, ...]:
    """What `edits_to_json` wrote.

    Raises:
        ValueError: there is no such kind.
    """
    return tuple(_edit(dict(value)) for value in values)


def _edit(value: dict[str, Any]) -> Edit:
    kind = value.pop("kind", None)
    value["kernel"] = tuple(value["kernel"])
    if kind == "component":
        return Component(**value)
    if kind == "insertion":
        return Insertion(**value)
    raise ValueError(f"a part must be a component or an insertion, got {kind!r}.")


def _check_units(units: int) -> None:
    if units < 1:
        raise ValueError(f"a part needs one unit or more, got {units}.")


def _check_kernel(kernel: Sequence[int]) -> None:
    if len(kernel) > 3 or any(size < 1 for size in kernel):
        raise ValueError(f"a kernel has up to three sizes of 1 or more, got {tuple(kernel)}.")
