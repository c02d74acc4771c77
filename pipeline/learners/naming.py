"""What is a tensor or a module of a stage called in the whole network, and the other way round?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

__all__ = ["Naming"]


@dataclass(frozen=True, slots=True)
class Naming:
    """The names of one stage. Those in the whole network are called global."""

    prefixes: tuple[tuple[str, str], ...]
    """(prefix in the stage, prefix in the whole network), as ("0.", "features.3.")."""

    def of(self, module: nn.Module) -> dict[str, str]:
        """The global name of every entry of the stage's state dict, as it is now."""
        return {name: self.full(name) for name in module.state_dict(keep_vars=True)}

    def full(self, name: str) -> str:
        """The global name of a tensor or a module of the stage; empty: of a stage that is one module."""
        dotted = f"{name}." if name else ""
        local, full = next(pair for pair in self.prefixes if dotted.startswith(pair[0]))
        return (full + dotted[len(local) :]).removesuffix(".")

    def local(self, name: str) -> str | None:
        """The name within the stage of what has this global name; None: that lies elsewhere, or in several places."""
        for local, full in self.prefixes:
            if f"{name}.".startswith(full):
                return (local + f"{name}."[len(full) :]).removesuffix(".")
        return None

    def has(self, module: nn.Module, name: str) -> bool:
        """Whether the stage has a module of this global name, or tensors within one that other stages share."""
        within = any(full.startswith(f"{name}.") for full in self.of(module).values())
        return within or self.local(name) in dict(module.named_modules())
