"""What would the numbers of a layer be if it began now?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from dni.structure.keyed import Keyed

__all__ = ["fresh_values"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
_DRAWN = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def fresh_values(module: nn.Module, keyed: Keyed) -> dict[str, Tensor]:
    """New initial values of everything in a module, as PyTorch's layers draw them: parameters and running statistics.

    Each layer draws from the generator of its own name, on the CPU; for one generator state the values have the bits of
    the layer's `reset_parameters`. A module of another kind can have a method `fresh_values(generator)` that returns
    its own, by name within it.

    Args:
        module: the network, or a stage.
        keyed: a generator for each name of a layer.

    Returns:
        Values by name, typed, shaped and placed like the module's own. Tied parameters are there once.

    Raises:
        ValueError: a layer has parameters and is of a kind that is not known.
    """
    fresh: dict[str, Tensor] = {}
    names = {name for name, _ in module.named_parameters()} | {name for name, _ in module.named_buffers()}
    own_up_to: str | None = None
    for name, layer in module.named_modules():
        if own_up_to is not None and name.startswith(own_up_to):
            continue
        draw = _rule(layer)
        if draw is None and not (own := dict(layer.named_parameters(recurse=False))):
            continue
        if draw is None:
            raise ValueError(
                f"layer {name!r}, a {type(layer).__name__}, must be of a kind whose initial values are known, "
                f"and holds {', '.join(own)}. Give it a method fresh_values(generator), or pass values of your own."
            )
        if hasattr(layer, "fresh_values"):
            own_up_to = f"{name}." if name else ""
        values = {f"{name}.{key}" if name else key: value for key, value in draw(keyed(name)).items()}
        fresh |= {key: value for key, value in values.items() if key in names}
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: value.to(state[name]) for name, value in fresh.items()}


def _rule(layer: nn.Module) -> Callable[[torch.Generator], Mapping[str, Tensor]] | None:
    own = getattr(layer, "fresh_values", None)
    if callable(own):
        return own  # type: ignore[no-any-return]
    if type(layer) in _DRAWN:
        return lambda generator: _uniform(layer, generator)
    if type(layer) in _NORMS:
        return lambda generator: _norm(layer)
    if type(layer) is nn.Embedding:
        return lambda generator: _embedding(layer, generator)
    return None


def _uniform(layer: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weight and bias from U(-1/sqrt(fan in), 1/sqrt(fan in)): Kaiming's with a = sqrt(5)."""
    weight = torch.empty_like(layer.get_parameter("weight"), device="cpu", requires_grad=False)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
    values = {"weight": weight}
    if isinstance(layer._parameters.get("bias"), Tensor):
        fan_in = weight[0].numel()
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        bias = torch.empty_like(layer.get_parameter("bias"), device="cpu", requires_grad=False)
        values["bias"] = bias.uniform_(-bound, bound, generator=generator)
    return values


def _norm(layer: nn.Module) -> dict[str, Tensor]:
    start = {"weight": 1.0, "running_var": 1.0}
    own = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    return {name: torch.full_like(value.detach(), start.get(name, 0.0)) for name, value in own.items()}


def _embedding(layer: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    weight = torch.empty_like(layer.get_parameter("weight"), device="cpu", requires_grad=False)
    weight.normal_(generator=generator)
    padding = getattr(layer, "padding_idx", None)
    if padding is not None:
        weight[padding] = 0.0
    return {"weight": weight}
