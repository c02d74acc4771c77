"""Which entries of which layers does a channel of one layer depend on, as torch-pruning finds it?

torch-pruning follows the graph of autograd and takes every operation that it does not know for one that works element
by element. So what comes out is a proposal, to be proven (`dni.structure.relabelling`).
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torch_pruning
from torch import Tensor, nn

__all__ = ["END", "START", "Reached", "Way", "bare_copy", "generators_kept", "reached_from"]

Way: TypeAlias = Literal["computed", "read", "passed"]
"""Along which of its sides a layer has the channels: its output, its input, or both, because they are the same."""
START, END = ":start", ":end"
"""Names for the input and the output of the module."""
_HOOKS = (
    *("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_hooks_with_kwargs"),
    *("_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks"),
    *("_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A layer that has to change with channels of the root."""

    name: str
    """`START`, `END`, or that of a module, or of a parameter that belongs to no known layer."""
    layer: nn.Module | Tensor
    way: Way
    entries: tuple[tuple[int, int], ...]
    """Pairs of an entry here and the channel of the root with which it goes."""


class _Index(NamedTuple):
    """As torch-pruning's mappings read it."""

    idx: int
    root_idx: int


class _Probe(nn.Module):
    """A place that torch-pruning can see."""

    def __init__(self, width: int | None) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x * 1


class _Probed(nn.Module):
    """A module between two places to see."""

    def __init__(self, module: nn.Module, *, width: int | None) -> None:
        super().__init__()
        self.start, self.module, self.end = _Probe(width), module, _Probe(None)
        self.y = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(self.start(x.detach().requires_grad_()) if x.is_floating_point() else x.clone())
        if not isinstance(y, Tensor) or y.dim() < 2:
            raise TypeError(
                f"{type(self.module).__name__} must return one tensor, (N, *F), for its units to be followed, got "
                f"{tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__}."
            )
        self.y, self.end.width = y.detach(), _width(y)
        result: Tensor = self.end(y)
        return result


class _ProbePruner:
    """What torch-pruning asks of a layer that it does not know."""

    def prune_out_channels(self, layer: _Probe, idxs: list[int]) -> _Probe:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: _Probe) -> int | None:
        return layer.width

    get_in_channels = get_out_channels


def bare_copy(module: nn.Module) -> nn.Module:
    """A deep copy in evaluation, whose parameters all ask for gradients. Nothing is done to the module.

    Forward hooks that are plain functions are part of what it computes (gates, components beside a layer). Methods and
    closures watch it for someone, so the copy is without them.

    Raises:
        TypeError: it cannot be copied.
    """
    hooks = (vars(part).get(name) for part in module.modules() for name in _HOOKS)
    # What deepcopy finds in its memo it does not copy.
    memo: dict[int, Any] = {
        id(own): OrderedDict((key, hook) for key, hook in own.items() if _is_part(hook))
        for own in hooks
        if own is not None
    }
    try:
        new: nn.Module = copy.deepcopy(module, memo)
    except Exception as error:
        raise TypeError(
            f"{type(module).__name__} must be one that copy.deepcopy can copy, to be looked at without being changed, "
            f"which ended with: {error} Keep tensors of a forward pass out of its attributes."
        ) from error
    for parameter in new.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    for part in new.modules():
        if part._forward_hooks:
            part.register_forward_pre_hook(_let_others_first)
    return new.eval()


def _is_part(hook: Any) -> bool:
    """A plain function; or what torch notes beside a hook, a bool."""
    return isinstance(hook, bool) or (isinstance(hook, FunctionType) and hook.__closure__ is None)


def _let_others_first(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """torch-pruning's hook has to see what the layer itself computes, before a hook of the layer's adds to it."""
    hooks: Any = layer._forward_hooks  # an OrderedDict
    for key in [key for key, hook in hooks.items() if _is_part(hook)]:
        hooks.move_to_end(key)


def generators_kept(module: nn.Module, x: Tensor) -> AbstractContextManager[None]:
    """What is drawn within is drawn again after it."""
    devices = sorted({own.device.index for own in (x, *module.parameters()) if own.device.type == "cuda"})
    return torch.random.fork_rng(devices=devices)


def reached_from(module: nn.Module, example: Tensor, root: str, *, count: int) -> tuple[list[Reached], Tensor]:
    """Everything that has to change with the channels of a root: the layers that compute, pass and read them.

    Args:
        module: a bare copy.
        example: its input, (N, *F).
        root: name of a layer, or `START`.
        count: its channels.

    Returns:
        All of it, and the module's output.

    Raises:
        ValueError: the output does not depend on the root.
        TypeError: the output is not one tensor.
    """
    probed = _Probed(module, width=count if root == START else _width(example))
    with torch.enable_grad(), generators_kept(module, example):
        graph = torch_pruning.DependencyGraph().build_dependency(
            probed,
            example_inputs=example,
            forward_fn=lambda network, x: network(x),
            customized_pruners={_Probe: _ProbePruner()},
            verbose=False,
        )
    names: dict[Any, str] = {part: name for name, part in probed.named_modules()}
    names |= {parameter: name for name, parameter in probed.named_parameters()}
    names |= {probed.start: START, probed.end: END}
    own = probed.start if root == START else module.get_submodule(root)
    if own not in graph.module2node:
        raise ValueError(
            f"{root} must be a layer that the module calls and whose output reaches the module's, but no gradient "
            "comes back through it. Name a layer that the output depends on."
        )
    found: dict[tuple[Any, Way], set[_Index]] = defaultdict(set)
    for node, way, indices in _walk(graph, own, count):
        if node.module in names:
            found[node.module, way].update(indices)
    reached = [
        Reached(name=names[part].removeprefix("module."), layer=part, way=way, entries=tuple(sorted(indices)))
        for (part, way), indices in found.items()
    ]
    return reached, probed.y


def _width(h: Tensor) -> int | None:
    """Its channels. Of three axes it is not known which one is theirs, and it only matters where some are flat."""
    return None if h.dim() in (1, 3) else int(h.shape[1])


def _walk(graph: Any, root: nn.Module, count: int) -> Iterable[tuple[Any, Way, tuple[_Index, ...]]]:
    """As `DependencyGraph.get_pruning_group`, which forgets with which channel an entry goes where two meet."""
    trigger = graph.get_pruner_of_module(root).prune_out_channels
    stack = [(graph.module2node[root], trigger, tuple(_Index(index, index) for index in range(count)))]
    seen: set[tuple[int, Any, tuple[_Index, ...]]] = set()
    while stack:
        node, trigger, indices = stack.pop()
        if not indices or (id(node), trigger, indices) in seen:
            continue
        seen.add((id(node), trigger, indices))
        yield node, _way(graph, node.module, trigger), indices
        for dependency in node.dependencies:
            if dependency.is_triggered_by(trigger):
                mapped = list(indices)
                for mapping in dependency.index_mapping:
                    mapped = mapped if mapping is None else mapping(mapped)
                indices_there = tuple(sorted(_Index(each.idx, each.root_idx) for each in mapped))
                stack.append((dependency.target, dependency.handler, indices_there))


def _way(graph: Any, module: nn.Module, handler: Callable[..., Any]) -> Way:
    pruner = graph.get_pruner_of_module(module)
    if pruner.prune_in_channels == pruner.prune_out_channels:
        return "passed"
    return "read" if handler == pruner.prune_in_channels else "computed"
