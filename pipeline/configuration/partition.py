"""Where is the network cut into stages?"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from pipeline.errors import PartitionError
from pipeline.learners.naming import Naming

__all__ = ["Balance", "Partition", "partition"]

Balance: TypeAlias = Literal["count", "parameters", "time"]


@dataclass(frozen=True)
class Partition:
    """A network as a chain of stages.

    The stages hold the user's own modules: training them trains the model they came from.
    """

    stages: tuple[nn.Module, ...]
    prefixes: tuple[tuple[tuple[str, str], ...], ...]
    """Per stage: (prefix in the stage, prefix in the whole model), as ("0.", "features.3.")."""
    model: nn.Module | None = None
    """The unsplit model, where there is one."""

    def __len__(self) -> int:
        return len(self.stages)

    @property
    def starts(self) -> tuple[str, ...]:
        """Names of the layers at which the stages after the first begin."""
        return tuple(prefixes[0][1].removesuffix(".") for prefixes in self.prefixes[1:])

    def names(self, index: int) -> dict[str, str]:
        """The global name of every entry of stage `index`'s state dict."""
        return Naming(self.prefixes[index]).of(self.stages[index])


def partition(
    model: nn.Module | Iterable[nn.Module],
    num_stages: int | None = None,
    *,
    at: Sequence[str] = (),
    by: Balance = "count",
    batch: Tensor | None = None,
    source_s: Sequence[Callable[[Tensor], float]] = (),
) -> Partition:
    """Cut a chain of modules into stages.

    Args:
        model: an `nn.Sequential` (nested ones are opened), a module whose children run one after another, or a list of
            modules, which are then the stages themselves unless `num_stages` asks for fewer.
        num_stages: how many stages, at most one per layer.
        at: names of the layers at which a new stage begins, as `["layer2", "layer3"]`, instead of `num_stages`.
        by: what is balanced: layers, parameters, or seconds of forward and backward.
        batch: one real input, (N, ...), needed for `by="time"`.
        source_s: per boundary, the seconds that the stage below it spends on its source, as a function of its output;
            counted by `by="time"`.

    Returns:
        The stages, holding the modules of `model` (not copies), with the names their parameters have in it.

    Raises:
        PartitionError: the cut is impossible, or a parameter or buffer would lie in two stages.
    """
    layers = _layers(model)
    if not layers:
        raise PartitionError("the model has no layers to cut; give an nn.Sequential or a list of modules.")
    if at:
        starts = _starts_at(layers, at, num_stages)
    else:
        wanted = len(layers) if num_stages is None and not isinstance(model, nn.Module) else num_stages
        starts = _balanced(layers, wanted, by=by, batch=batch, source_s=source_s)
    ends = [*starts[1:], len(layers)]
    groups = _own_copies([layers[start:end] for start, end in zip(starts, ends, strict=True)])
    cut = Partition(
        stages=tuple(nn.Sequential(*(layer for _, layer in group)) for group in groups),
        prefixes=tuple(
            tuple((f"{i}.", f"{name}." if name else "") for i, (name, _) in enumerate(group)) for group in groups
        ),
        model=model if isinstance(model, nn.Module) else None,
    )
    _refuse_shared(cut)
    return cut


def _layers(model: nn.Module | Iterable[nn.Module]) -> list[tuple[str, nn.Module]]:
    """The chain's layers with their names in the whole model."""
    if not isinstance(model, nn.Module):
        return [(str(i), layer) for i, layer in enumerate(model)]
    children = _children(model)
    if not children:
        return [("", model)]
    return [pair for name, child in children for pair in _opened(name, child)]


def _opened(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Sequential):
        return [(name, module)]
    return [pair for inner, child in _children(module) for pair in _opened(f"{name}.{inner}", child)]


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children by name; one that stands in several places counts at each (`named_children` gives it once)."""
    return [(name, child) for name, child in module._modules.items() if child is not None]


def _own_copies(groups: list[list[tuple[str, nn.Module]]]) -> list[list[tuple[str, nn.Module]]]:
    """Give each stage its own copy of a stateless module (an activation) that stands in several of them."""
    owner: dict[int, int] = {}
    return [
        [
            (name, layer if owner.setdefault(id(layer), index) == index or layer.state_dict() else copy.deepcopy(layer))
            for name, layer in group
        ]
        for index, group in enumerate(groups)
    ]


def _starts_at(layers: list[tuple[str, nn.Module]], at: Sequence[str], num_stages: int | None) -> list[int]:
    names = [name for name, _ in layers]
    starts = [0]
    for wanted in at:
        # A nested Sequential's own name means its first layer.
        found = [i for i, name in enumerate(names) if name == wanted or name.startswith(f"{wanted}.")]
        if not found:
            raise PartitionError(f"no layer is called {wanted!r}; the layers are {', '.join(names)}.")
        starts.append(found[0])
    if starts != sorted(set(starts)):
        raise PartitionError(f"stages must begin in the order of the layers and after the first, got {list(at)}.")
    if num_stages is not None and num_stages != len(starts):
        raise PartitionError(
            f"{len(at)} cuts make {len(starts)} stages, but num_stages is {num_stages}. Give one of the two."
        )
    return starts


def _balanced(
    layers: list[tuple[str, nn.Module]],
    num_stages: int | None,
    *,
    by: Balance,
    batch: Tensor | None,
    source_s: Sequence[Callable[[Tensor], float]],
) -> list[int]:
    if num_stages is None:
        raise PartitionError("give num_stages, or at=[names of the layers at which stages begin].")
    if not 1 <= num_stages <= len(layers):
        raise PartitionError(f"num_stages must lie in [1, {len(layers)}] (the layers there are), got {num_stages}.")
    beside: list[list[float]] = []
    match by:
        case "count":
            costs = [1.0] * len(layers)
        case "parameters":
            costs = [float(sum(p.numel() for p in layer.parameters())) for _, layer in layers]
        case "time":
            if batch is None:
                raise PartitionError('by="time" measures each layer on a real input; give batch=x.')
            costs, outputs = _measured_s([layer for _, layer in layers], batch)
            once = {measure: [measure(h) for h in outputs] for measure in source_s}
            beside = [once[measure] for measure in source_s]
    return _smallest_maximum(costs, num_stages, beside)


def _smallest_maximum(costs: Sequence[float], num_stages: int, beside: Sequence[Sequence[float]] = ()) -> list[int]:
    """Starts of `num_stages` runs of layers whose largest total is as small as can be (exact, by recursion).

    Among equals, cuts with a smaller sum of squares are preferred, so that free layers do not all fall into one stage.
    `beside[s][i]` is a further cost of stage s if layer i is its last.
    """
    totals = [0.0]
    for cost in costs:
        totals.append(totals[-1] + cost)
    best: list[list[tuple[float, float, int]]] = [[(0.0, 0.0, 0)] + [(float("inf"),) * 2 + (0,)] * len(costs)]
    for stage in range(1, num_stages + 1):
        row = [(float("inf"), float("inf"), 0)] * (len(costs) + 1)
        for end in range(stage, len(costs) + 1):
            further = beside[stage - 1][end - 1] if stage <= len(beside) else 0.0
            for start in range(stage - 1, end):
                own = totals[end] - totals[start] + further
                largest, squares, _ = best[stage - 1][start]
                row[end] = min(row[end], (max(largest, own), squares + own * own, start))
        best.append(row)
    starts, end = [], len(costs)
    for stage in range(num_stages, 0, -1):
        end = best[stage][end][2]
        starts.append(end)
    return starts[::-1]


def _measured_s(layers: Sequence[nn.Module], batch: Tensor, repeats: int = 3) -> tuple[list[float], list[Tensor]]:
    """Seconds of forward and backward of each layer, the fastest of a few, and its output; a deep copy is measured.

    The first layer's gradient to the network's input is not counted, because nobody asks for it.
    """
    costs, outputs, x = [], [], batch
    for position, layer in enumerate(copy.deepcopy(nn.ModuleList(layers))):
        elapsed_s = []
        for _ in range(repeats):
            leaf = x.detach()
            if leaf.is_floating_point() and position > 0:
                leaf.requires_grad_()
            start_s = time.perf_counter()
            h = layer(leaf.clone())
            if h.requires_grad:
                h.sum().backward()
            elapsed_s.append(time.perf_counter() - start_s)
        costs.append(min(elapsed_s))
        outputs.append(h.detach())
        x = h
    return costs, outputs


def _refuse_shared(cut: Partition) -> None:
    owners: dict[int, tuple[int, str]] = {}
    for index, stage in enumerate(cut.stages):
        names = cut.names(index)
        for local, tensor in stage.state_dict(keep_vars=True).items():
            if not isinstance(tensor, torch.Tensor):
                continue
            owner, name = owners.setdefault(id(tensor), (index, names[local]))
            if owner != index:
                raise PartitionError(
                    f"{name} (stage {owner}) and {names[local]} (stage {index}) are the same tensor; a parameter or "
                    "buffer belongs to one stage. Untie them, or cut so that both lie in one stage."
                )
