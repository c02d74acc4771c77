"""How alike is each layer of one network to each of another?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dni.measures.layer_measure import check_same_names, rows_by_name

__all__ = ["Comparison", "Sides"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A number for each pair of layers."""

    rows: tuple[str, ...]
    """Layers of the first network."""
    columns: tuple[str, ...]
    """Layers of the second; the same as `rows` where a network is compared with itself."""
    values: Tensor
    """(rows, columns), float64."""

    def of(self, row: str, column: str) -> float:
        """The number of one pair."""
        return float(self.values[self.rows.index(row), self.columns.index(column)])


class Sides:
    """The names of the layers that are compared, fixed by the first minibatch."""

    def __init__(self) -> None:
        self.rows: tuple[str, ...] = ()
        self.columns: tuple[str, ...] | None = None
        """None: a network with itself."""

    def take(
        self, features: Mapping[str, Tensor], against: Mapping[str, Tensor] | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The features of each side, (N, F) float64 each, in the order of the names.

        Raises:
            ValueError: as `dni.measures.layer_measure.rows_by_name`, over both sides; or the names have changed.
        """
        first = rows_by_name(features)
        second = None if against is None else rows_by_name(against, what="features compared against")
        if self.rows:
            check_same_names(first, self.rows)
            check_same_names(second or {}, self.columns or (), what="features compared against")
        if second is not None:
            (name, h), (other, g) = next(iter(first.items())), next(iter(second.items()))
            if len(h) != len(g):
                raise ValueError(
                    f"both networks must be shown the same samples, got {len(h)} of {name} and {len(g)} of {other}, "
                    "compared against. Run both on the same minibatch."
                )
        if not self.rows:
            self.rows, self.columns = tuple(first), None if second is None else tuple(second)
        mine = [first[name] for name in self.rows]
        return mine, [] if second is None else [second[name] for name in self.columns or ()]

    def compare(self, values: Tensor) -> Comparison:
        """From the numbers of all pairs of all layers, both sides in one row: the block that was asked for."""
        count = len(self.rows)
        if self.columns is None:
            return Comparison(rows=self.rows, columns=self.rows, values=values)
        return Comparison(rows=self.rows, columns=self.columns, values=values[:count, count:])

    def state_dict(self) -> dict[str, tuple[str, ...] | None]:
        """The names."""
        return {"rows": self.rows, "columns": self.columns}

    def load_state_dict(self, state: Mapping[str, tuple[str, ...] | None]) -> None:
        """Take over what `state_dict` returned."""
        self.rows = tuple(state["rows"] or ())
        self.columns = None if state["columns"] is None else tuple(state["columns"])
