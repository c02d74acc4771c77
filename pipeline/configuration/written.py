"""How is a setting written down, for people and for comparing runs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from torch import nn

__all__ = ["written"]


def written(value: Any) -> Any:
    """A setting in plain values: of a policy its `kind` and its fields, of a function or a module its name."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple):
        return [written(each) for each in value]
    if isinstance(value, Mapping):
        return {str(name): written(each) for name, each in value.items()}
    if isinstance(value, partial):
        given = {"given": written(value.args)} if value.args else {}
        return {"kind": _name(value.func), **given, **{name: written(each) for name, each in value.keywords.items()}}
    if isinstance(value, nn.Module):
        return type(value).__name__
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: written(getattr(value, each.name)) for each in fields(value)}
        return {"kind": type(value).__name__, **own}
    return _name(value)


def _name(value: Any) -> str:
    """Without an address, which is another one in each process."""
    return str(getattr(value, "__qualname__", None) or type(value).__name__)
