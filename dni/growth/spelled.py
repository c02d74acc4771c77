"""How would a network look if modules did what the hooks of its attached parts do?

What follows the graph of a network by its modules (the dependency graph of torch-pruning) takes what comes out of a
layer for what the layer computes. So it needs a copy in which a layer with parts is only itself, and another module
adds them.
"""

from __future__ import annotations

from torch import Tensor, nn

from dni.growth.attach import detach_parts_
from dni.growth.gate import read_through

__all__ = ["spell_out_"]

_ITSELF = "itself"


def spell_out_(module: nn.Module) -> dict[str, str]:
    """Put a module in the place of each layer that has parts: it has the layer, as `itself`, and the parts.

    Parts keep their names, "2.component.0"; only the layer gets another, "2.itself". Buffers of gates stay with it.

    Args:
        module: a copy, for it is of use for looking only. It may have lost its hooks.

    Returns:
        The names of layers that have got another one: in `module`, by what they were.

    Raises:
        ValueError: the parts belong to `module` itself, which cannot be put elsewhere.
    """
    names = {}
    for name, layer in list(module.named_modules()):
        beside, behind = detach_parts_(layer) if name else ({}, {})
        if not beside and not behind:
            continue
        path, _, own = name.rpartition(".")
        module.get_submodule(path).add_module(own, _Spelled(layer, beside=beside, behind=behind))
        names[name] = f"{name}.{_ITSELF}"
    if any(detach_parts_(module)):
        raise ValueError("the parts of a network that is one layer cannot be spelled out. Put it in an nn.Sequential.")
    return names


class _Spelled(nn.Module):
    def __init__(self, layer: nn.Module, *, beside: dict[str, nn.Module], behind: dict[str, nn.Module]) -> None:
        super().__init__()
        self.add_module(_ITSELF, layer)
        self._beside, self._behind = tuple(beside), tuple(behind)
        for name, part in {**beside, **behind}.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.get_submodule(_ITSELF)
        y: Tensor = layer(x)
        for name in self._beside:
            y = y + self.get_submodule(name)(read_through(layer, x))
        for name in self._behind:
            y = self.get_submodule(name)(y)
        return y
