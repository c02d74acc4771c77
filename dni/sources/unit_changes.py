"""Which tensors of a source's network follow the units of h, and how?

    layer                        axis    side         new entries
    that reads h                 1       consumer     0: what is said of other units stays
    that gives the gradient      0       predictor    0: nothing, until it is learned

Neither keeps a network from learning: rows and columns of zeros see gradients as long as what lies on their other side
is not zero. Hidden layers keep their width. Columns that read something else beside h (labels) stay as they are.

Letters: N samples, C units, K numbers of context.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

from dni.structure.fit import fit_
from dni.structure.followers import AxisChange, Side, map_tensor
from dni.structure.layout import beside, flattened
from dni.structure.optimizer_state import check_state, fresh_of, group_of, slots_of
from dni.structure.origin import Origin
from dni.structure.remap import check_untied

__all__ = [
    "AxisChanges",
    "UnitFollower",
    "changes_of",
    "first_reads",
    "follow_",
    "gives",
    "last_gives",
    "predicts",
    "reads",
    "refusal",
    "within",
]

AxisChanges: TypeAlias = Mapping[str, tuple[AxisChange, ...]]
"""By the name of a parameter, the changes of its axes."""

_WEIGHTED = (nn.Linear, nn.Conv2d)
_UNIT_BY_UNIT = (
    nn.AdaptiveAvgPool2d,
    nn.AvgPool2d,
    nn.Dropout,
    nn.Flatten,
    nn.GELU,
    nn.Identity,
    nn.MaxPool2d,
    nn.ReLU,
    nn.SiLU,
    nn.Tanh,
)
"""What may stand between h and the first layer: units do not mix, and a silent one stays silent."""


@runtime_checkable
class UnitFollower(Protocol):
    """A network of the user's own in a source, which says how its parameters follow the units of h."""

    def axis_changes(self, origin: Origin, h: Tensor) -> AxisChanges:
        """The changes of its parameters, by name; the others stay as they are, and so do buffers.

        Called before the change. New entries become 0. Its `forward` must take the sizes from its tensors.

        Args:
            origin: of the units of h, along its axis of features.
            h: of no samples, (0, C, ...) or (0, T, C), as before the change.
        """


def changes_of(network: nn.Module, origin: Origin, h: Tensor) -> dict[str, tuple[AxisChange, ...]]:
    """The changes of a network that maps h to the gradient at h.

    Raises:
        TypeError: it is neither a `UnitFollower` nor a Linear, a Conv2d or a Sequential that begins and ends with one.
        ValueError: it does not read the units.
    """
    if isinstance(network, UnitFollower):
        return dict(network.axis_changes(origin, h))
    remedy = "use 'linear', 'low-rank', 'mlp' or 'convolutional'"
    return _joined(reads(network, origin, h, remedy=remedy), gives(network, origin, h, side="predictor", remedy=remedy))


def reads(network: nn.Module, origin: Origin, h: Tensor, *, remedy: str) -> AxisChanges:
    """The changes of a network that is given h alone, in what reads it.

    Raises as `changes_of`; the message names the remedy.
    """
    if isinstance(network, UnitFollower):
        return network.axis_changes(origin, h)
    is_flat = False
    for path, layer in _in_order(network):
        if type(layer) is nn.Linear and is_flat:
            return _columns(path, layer, flattened(origin, layer.in_features, units_last=h.dim() == 3))
        if type(layer) in _WEIGHTED and _works_on_units(layer, h):
            return _columns(path, layer, origin)
        if type(layer) not in _UNIT_BY_UNIT or not _flattens_all(layer):
            break
        is_flat = is_flat or isinstance(layer, nn.Flatten)
    raise refusal(network, remedy)


def gives(network: nn.Module, origin: Origin, h: Tensor, *, side: Side, remedy: str) -> AxisChanges:
    """The changes of a network in the layer that gives something for each unit, shaped as h.

    Raises as `changes_of`.
    """
    path, layer = [("", network), *_in_order(network)][-1]
    if type(layer) not in _WEIGHTED or not _works_on_units(layer, h):
        raise refusal(network, remedy)
    return _rows(path, layer, origin, side)


def predicts(network: nn.Module, units: Origin) -> AxisChanges:
    """The changes of a Linear, a Conv2d or a Sequential from units, and context beside them, to gradients at them."""
    return _joined(first_reads(network, units), last_gives(network, units, side="predictor"))


def first_reads(network: nn.Module, units: Origin) -> AxisChanges:
    """The changes of the first layer of such a network, which reads units and context beside them."""
    return _columns(*next(_in_order(network)), units)


def last_gives(network: nn.Module, units: Origin, *, side: Side) -> AxisChanges:
    """The changes of the last layer of such a network, which gives a number for each unit."""
    return _rows(*list(_in_order(network))[-1], units, side)


def within(path: str, changes: AxisChanges) -> AxisChanges:
    """The changes of a module as those of the one that holds it under this name."""
    return {f"{path}.{name}": own for name, own in changes.items()}


def refusal(network: nn.Module, remedy: str) -> TypeError:
    """Says what a network of the user's own must have."""
    return TypeError(
        f"a network of your own must say which of its parameters follow the units of h for them to change, and "
        f"{type(network).__name__} does not. Give it a method axis_changes(origin, h) (dni.UnitFollower), {remedy}, or "
        "plan no event for the layer below this boundary."
    )


def follow_(network: nn.Module, changes: AxisChanges, *, optimizer: Optimizer) -> None:
    """Put the parameters that follow in the place of the old ones, in the network and in its optimiser.

    New entries are 0, and so is the optimiser's memory of them. They keep the tensor's count of updates, so with Adam
    their first updates are up to 6.6 times the learning rate. New units of a stage have a count of their own for that
    reason (`dni.structure.pieces`); a synthesizer does without: it is a regression beside the network, which a few
    large updates of what begins at zero do not make wrong, and its targets go on moving anyway.

    Raises:
        TypeError, ValueError: the changes or the state do not fit; nothing is replaced then.
    """
    followed = {name: _followed(network, name, own, optimizer) for name, own in changes.items()}
    fit_(network, {name: value for name, (_, value, _) in followed.items()})
    for name, (old, _, state) in followed.items():
        new = network.get_parameter(name)
        parameters = group_of(optimizer, old)["params"]
        parameters[next(index for index, other in enumerate(parameters) if other is old)] = new
        optimizer.state.pop(old, None)
        if state:
            optimizer.state[new] = state


def _followed(
    network: nn.Module, name: str, changes: tuple[AxisChange, ...], optimizer: Optimizer
) -> tuple[nn.Parameter, Tensor, dict[str, Any]]:
    """The parameter as it was, its new value, and the optimiser's state of it then."""
    owner, own = check_untied(network, name)
    old = getattr(owner, own)
    slots, group = slots_of(optimizer), group_of(optimizer, old)
    held_state = optimizer.state.get(old, {})
    check_state(optimizer, held_state, shape=tuple(old.shape), name=name)
    state = {
        key: held
        if held is None or key not in slots
        else map_tensor(held, changes, slots[key].kind, fresh=fresh_of(slots[key], group))
        for key, held in held_state.items()
    }
    return old, map_tensor(old, changes, "value"), state


def _columns(path: str, layer: nn.Module, units: Origin) -> AxisChanges:
    """Of a layer that reads units, and maybe other things after them."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    num_beside = weight.shape[1] - units.num_old
    if num_beside < 0 or (isinstance(layer, nn.Conv2d) and layer.groups != 1):
        raise ValueError(
            f"what reads {units.num_old} units must have a column for each, got a {type(layer).__name__} with a weight "
            f"of shape {tuple(weight.shape)}. Make it for this h, with groups=1."
        )
    return {f"{path}weight": (AxisChange(axis=1, origin=beside(units, num_beside), side="consumer"),)}


def _rows(path: str, layer: nn.Module, units: Origin, side: Side) -> AxisChanges:
    """Of a layer that gives a number for each unit."""
    change = (AxisChange(axis=0, origin=units, side=side),)
    names = ("weight",) if layer.bias is None else ("weight", "bias")
    return {f"{path}{name}": change for name in names}


def _works_on_units(layer: nn.Module, h: Tensor) -> bool:
    """Whether a layer has the axis of h's features for its own."""
    return h.dim() == 4 if isinstance(layer, nn.Conv2d) else h.dim() in (2, 3)


def _flattens_all(layer: nn.Module) -> bool:
    """Whether a layer leaves no axis but one behind the samples, if it flattens."""
    return not isinstance(layer, nn.Flatten) or (layer.start_dim, layer.end_dim) == (1, -1)


def _in_order(network: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested Sequentials with their names, each with a dot behind it; a module by itself has none."""
    if type(network) is not nn.Sequential:
        yield path, network
        return
    for name, layer in network.named_children():
        yield from _in_order(layer, f"{path}{name}.")


def _joined(*parts: AxisChanges) -> dict[str, tuple[AxisChange, ...]]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: tuple(change for part in parts for change in part.get(name, ())) for name in names}
