"""Which modules do the tests of coupling try, and what is known of them by hand?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ARCHITECTURES", "Attention", "Concatenated", "Residual", "SelfDescribed", "settled"]


class Residual(nn.Module):
    """Channels of one stream: `stem` and `block` write into it, `block`, `depthwise` and `head` read it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.slope = nn.PReLU(4)
        self.block = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.slope(self.stem(x))
        h = h + self.norm(self.block(h.relu()))
        y: Tensor = self.head(self.depthwise(h))
        return y


class Concatenated(nn.Module):
    """What `first` computes lies behind the two channels of x wherever it is read; `second` behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(11)
        self.head = nn.Conv2d(11, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([x, self.first(x).tanh()], 1)
        y: Tensor = self.head(self.norm(torch.cat([h, self.second(h).tanh()], 1)))
        return y


class Gated(nn.Module):
    """A unit is a channel of one half and its gate in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(5, 8)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, -1)
        y: Tensor = self.head(value * gate.sigmoid())
        return y


class Attention(nn.Module):
    """Heads of 2 channels each, written with Linear layers; query, key and value in one or in three."""

    def __init__(self, *, width: int, num_heads: int, fused: bool = False) -> None:
        super().__init__()
        self.num_heads, self.fused = num_heads, fused
        inner = 2 * num_heads
        names = {"qkv": 3 * inner} if fused else {"query": inner, "key": inner, "value": inner}
        for name, size in names.items():
            self.add_module(name, nn.Linear(width, size))
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).chunk(3, -1) if self.fused else (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y

    def fit_units_(self) -> None:
        self.num_heads = self.out.in_features // 2


class SelfDescribed(Attention):
    """Says itself what makes a head."""

    def coupled_units(self) -> Sequence[tuple[tuple[str, ...], tuple[str, ...], int]]:
        return [(("qkv",) if self.fused else ("query", "key", "value"), ("out",), 2)]


class Encoder(nn.Module):
    """Tokens: a stream of 6 channels with a norm of them, which x itself enters."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.wide = nn.Linear(6, 8)
        self.narrow = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(F.gelu(self.wide(self.norm(x))))


def _flattened() -> nn.Module:
    pooled = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), *pooled, nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3))


def _one_dimensional() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.GELU(), nn.Flatten(), nn.Linear(28, 3))


def _three_dimensional() -> nn.Module:
    return nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4), nn.GELU(), nn.Conv3d(4, 3, 2))


def _grouped_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.Conv2d(4, 3, 1))


ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "flattened": (_flattened, "0", (2, 6, 6)),
    "two linear": (_flattened, "5", (2, 6, 6)),
    "one dimension": (_one_dimensional, "0", (2, 9)),
    "three dimensions": (_three_dimensional, "0", (2, 4, 4, 4)),
    "residual, stem": (Residual, "stem", (2, 6, 6)),
    "residual, block": (Residual, "block", (2, 6, 6)),
    "depthwise": (Residual, "depthwise", (2, 6, 6)),
    "concatenated": (Concatenated, "first", (2, 6, 6)),
    "concatenated twice": (Concatenated, "second", (2, 6, 6)),
    "gated": (Gated, "both", (5,)),
    "gated tokens": (Gated, "both", (7, 5)),
    "feed-forward": (Encoder, "wide", (7, 6)),
    "heads": (lambda: SelfDescribed(width=6, num_heads=4), "key", (7, 6)),
    "heads of one layer": (lambda: SelfDescribed(width=6, num_heads=4, fused=True), "qkv", (7, 6)),
    "group norm": (_grouped_norm, "0", (2, 6, 6)),
    "boundary": (lambda: _flattened()[:5], "0", (2, 6, 6)),  # type: ignore[index]
    "tokens at the boundary": (lambda: nn.Sequential(nn.Linear(6, 4), nn.GELU()), "0", (7, 6)),
    "stream": (Encoder, "narrow", (7, 6)),
}
"""A module, a layer whose units change, and the shape of a sample."""


def settled(name: str) -> tuple[nn.Module, str, Tensor]:
    """One of them in float64, in evaluation, with norms that have seen something; its layer; and an input."""
    make, layer, shape = ARCHITECTURES[name]
    module, x = make().double(), torch.randn(3, *shape, dtype=torch.float64)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.LayerNorm | nn.GroupNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
    with torch.no_grad():
        module(torch.randn_like(x))
    return module.eval(), layer, x
