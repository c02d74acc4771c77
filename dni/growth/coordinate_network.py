"""How does a small network of coordinates give the values of a kernel?

Letters: P places, A axes of space, H hidden units, K values at each place, ω the frequency of sines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["CoordinateNetwork", "KernelNetwork"]


@dataclass(frozen=True, kw_only=True)
class KernelNetwork:
    """The network that makes a kernel."""

    hidden: int = 32
    """H, of each hidden layer."""
    num_layers: int = 3
    """Affine layers, the last among them; at least 2."""
    activation: Literal["sine", "relu"] = "sine"
    """sine: SIREN, sin(ω (W x + b)). relu: a plain MLP, which makes smooth kernels only."""
    omega: float = 30.0
    """ω, for sine: the larger, the finer the detail. It is chosen for each task: 4 to 45 in CKConv's runs."""
    weight_norm: bool = False
    """Whether a row of each weight is a length times a direction, each of which is learned (CKConv: yes)."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or self.num_layers < 2:
            raise ValueError(
                f"a kernel's network must have at least 1 hidden unit and 2 layers, got {self.hidden} and "
                f"{self.num_layers}."
            )
        if self.activation not in ("sine", "relu"):
            raise ValueError(f"the activation of a kernel's network is sine or relu, got {self.activation!r}.")
        if not 0.0 < self.omega < math.inf:
            raise ValueError(f"the frequency omega must be finite and positive, got {self.omega}.")


class CoordinateNetwork(nn.Module):
    """Coordinates (P, A) to values (P, K).

    Initial values, sine: W from U(±1/A) in the first layer and U(±sqrt(6/H)/ω) in others, b from U(±1).    Source:
    Sitzmann et al. 2020 (SIREN, arXiv 2006.09661), section 3.2; b as in the code of Romero et al. 2022 (CKConv, arXiv
    2102.02611), without which kernels are odd functions. relu: W from U(±sqrt(6/fan in)), and b of the first layer such
    that its kinks lie evenly in [-1, 1]^A, as CKConv's. Differs: theirs are at fixed places. Last layer: W from
    U(±sqrt(3/H)), b 0; `scale_output_` then corrects its variance.
    """

    def __init__(
        self, settings: KernelNetwork, *, num_axes: int, num_values: int, generator: torch.Generator | None = None
    ) -> None:
        """Args:
        settings: the network.
        num_axes: A.
        num_values: K.
        generator: of the initial values; None: PyTorch's own.
        """
        super().__init__()
        self.settings = settings
        widths = [num_axes, *[settings.hidden] * (settings.num_layers - 1), num_values]
        self.layers = nn.ModuleList(
            _Affine(before, after, weight_norm=settings.weight_norm) for before, after in pairwise(widths)
        )
        for index, layer in enumerate(self._affine()):
            self._draw_(index, layer, generator)

    def features(self, coordinates: Tensor) -> Tensor:
        """The last hidden layer, (P, H), of coordinates (P, A)."""
        *hidden, _ = self._affine()
        values = coordinates
        for layer in hidden:
            values = layer(values)
            values = values.relu() if self.settings.activation == "relu" else torch.sin(self.settings.omega * values)
        return values

    def forward(self, coordinates: Tensor) -> Tensor:
        """(P, A) to (P, K)."""
        values: Tensor = self.layers[-1](self.features(coordinates))
        return values

    def scale_output_(self, factor: float) -> None:
        """Multiply what the last layer's weight makes."""
        self._affine()[-1].scale_(factor)

    def _affine(self) -> list[_Affine]:
        return [layer for layer in self.layers if isinstance(layer, _Affine)]

    def _draw_(self, index: int, layer: _Affine, generator: torch.Generator | None) -> None:
        fan_in = layer.weight.shape[1]
        sine, last = self.settings.activation == "sine", index == len(self.layers) - 1
        if last:
            bound = math.sqrt(3 / fan_in)
        elif sine:
            bound = 1 / fan_in if index == 0 else math.sqrt(6 / fan_in) / self.settings.omega
        else:
            bound = math.sqrt(6 / fan_in)
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
            if sine and not last:
                layer.bias.uniform_(-1.0, 1.0, generator=generator)
            elif index == 0:
                kinks = torch.empty_like(layer.weight).uniform_(-1.0, 1.0, generator=generator)
                layer.bias.copy_(-(layer.weight * kinks).sum(1))
            layer.measure_()


class _Affine(nn.Module):
    """x W^T + b; with weight norm, row i of W is length_i v_i / |v_i|.

    Written out, because a module that PyTorch's parametrisation has changed cannot be pickled.
    """

    def __init__(self, inputs: int, outputs: int, *, weight_norm: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.length = nn.Parameter(torch.zeros(outputs, 1)) if weight_norm else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.length is not None:
            weight = weight * (self.length / weight.norm(dim=1, keepdim=True))
        return nn.functional.linear(x, weight, self.bias)

    def measure_(self) -> None:
        """Let the lengths be those of the rows as they are."""
        if self.length is not None:
            self.length.copy_(self.weight.norm(dim=1, keepdim=True))

    def scale_(self, factor: float) -> None:
        with torch.no_grad():
            (self.weight if self.length is None else self.length).mul_(factor)
