"""Which layers and which weights does an action mean?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.events.view import StageView
from dni.pruning.selection import Amount
from dni.structure.hidden import Hidden

__all__ = [
    *("check_amount", "check_apart", "check_held", "check_names"),
    *("held", "kept_places", "kept_values", "weights"),
]


def check_names(layers: Iterable[str] | None) -> None:
    """Raise `ValueError` unless these are names of layers, each once, or None."""
    if layers is None:
        return
    names = () if isinstance(layers, str) else tuple(layers)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f'the layers of an event are a tuple of different names, as ("0", "3"), got {layers!r}.')


def check_amount(amount: Amount) -> None:
    """Raise `ValueError` if nothing would ever come or go."""
    if not amount.value:
        raise ValueError(f"an event must change something, got {amount}. Raise the amount, or leave the event out.")


def check_held(layers: Iterable[str] | None, shapes: Shapes, *, num_axes: int = 1) -> None:
    """Raise `ValueError` if a layer is not there, or has no parameter of so many axes or more."""
    for layer in () if layers is None else layers:
        own = {name: tuple(shape) for name, shape in shapes.items() if name.startswith(f"{layer}.")}
        if not own:
            known = ", ".join(dict.fromkeys(name.rpartition(".")[0] or name for name in shapes))
            raise ValueError(f"there is no layer {layer!r} with parameters; there are {known}. Correct the name.")
        if not any(len(shape) >= num_axes for shape in own.values()):
            raise ValueError(
                f"layer {layer!r} must have a parameter of {num_axes} axes or more for this event, it has "
                f"{', '.join(f'{name} {shape}' for name, shape in own.items())}. Name another layer."
            )


def held(layers: Sequence[str], view: StageView) -> list[str]:
    """Those of the layers that this stage has, in their order."""
    return [layer for layer in layers if view.has(layer)]


def weights(layers: Sequence[str] | None, view: StageView) -> dict[str, Tensor]:
    """The weights of these layers that this stage has: parameters of two axes or more, so neither biases nor norms."""
    return {
        name: value.detach()
        for name, value in view.parameters.items()
        if value.dim() > 1 and (layers is None or any(name.startswith(f"{layer}.") for layer in layers))
    }


def kept_values(view: StageView, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """New values with 0 where masks are held."""
    return {
        name: value.masked_fill(~view.kept[name].to(value.device), 0.0) if name in view.kept else value
        for name, value in values.items()
    }


def kept_places(view: StageView, name: str, value: Tensor) -> Tensor:
    """Places in the tensor laid flat that no mask has pruned, ascending."""
    if name in view.kept:
        return view.kept[name].flatten().nonzero().flatten().to(value.device)
    return torch.arange(value.numel(), device=value.device)


def check_apart(units: Mapping[str, Hidden]) -> None:
    """Raise `ValueError` if two layers compute the same units, as those of a residual stream do."""
    taken: dict[tuple[str, int], str] = {}
    for layer, each in units.items():
        for name, own in each.sides("producer"):
            for offset in own.at.offsets:
                other = taken.setdefault((name, offset), layer)
                if other != layer:
                    raise ValueError(
                        f"the layers of an event must have units of their own, but {other} and {layer} both change "
                        f"{name}: their outputs are added. Name one of them."
                    )
