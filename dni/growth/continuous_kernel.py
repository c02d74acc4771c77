"""How can a convolution have any resolution and any reach with the same parameters?

Its kernel is a function of place, sampled where it is needed: a small network of coordinates, times a Gaussian whose
width is learned. Letters: N samples, A axes (1 or 2), k taps on an axis, δ the distance of two taps in coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni.growth.coordinate_network import CoordinateNetwork, KernelNetwork

__all__ = ["ContinuousConv", "GaussianMask"]

_NETWORK = KernelNetwork()
_NARROWEST = 1e-4
"""Below this a width counts as this, or the mask would be 0/0 at its centre; less than any distance of taps."""


@dataclass(frozen=True, kw_only=True)
class GaussianMask:
    """A kernel's learnable extent: g(x) = exp(-((x - μ) / σ)² / 2) on each axis, multiplied.

    Source: Romero et al. 2022 (FlexConv, arXiv 2110.08059), with its code's σ and threshold. Their learning rate of μ
    and σ is a tenth of the others': give `mask_mean` and `mask_width` a parameter group.
    """

    width: float = 0.075
    """At the start, in coordinates; 1 is half of the kernel's first reach."""
    crop_below: float = 0.1
    """Outer taps where g is less than this on an axis are not computed at all; 0: all of them are. A cropped kernel is
    as cheap as it is small, but what is cropped sends no gradient."""

    def __post_init__(self) -> None:
        if not _NARROWEST <= self.width < math.inf:
            raise ValueError(f"the width of a mask must be finite and at least {_NARROWEST}, got {self.width}.")
        if not 0.0 <= self.crop_below < 1.0:
            raise ValueError(f"the mask below which taps are cropped must lie in [0, 1), got {self.crop_below}.")


class ContinuousConv(nn.Module):
    """A convolution of stride 1 whose input's size is kept: (N, C_in, *space) to (N, C_out, *space).

        y(n) = b + (δ/δ_0)^A Σ_j g(x_j) K(x_j) x(n + j)        x_j = j δ

    δ_0 = 2/(k - 1) for the first k, so the first taps lie in [-1, 1]. `causal` (1 axis): the last tap is now, at
    coordinate 1.    Source: Romero et al. 2022 (CKConv, arXiv 2102.02611; FlexConv, arXiv 2110.08059). Differs: kernels
    are not flipped; the factor δ/δ_0 is per axis; it is computed directly, without FFT, which pays from about 50 taps
    on.

    The last layer begins such that white noise of variance 1 comes out with variance 1: weights are multiplied by
    1/sqrt(C_in/groups Σ_j g(x_j)² mean φ(x_j)²), φ the last hidden layer.    Source: Chang et al. 2020 (principled
    weight initialisation for hypernetworks), as Knigge et al. 2023 (CCNN, arXiv 2301.10540) have it, 1/sqrt(C_in k^A).
    Differs: mask and hidden units are counted as they are.
    """

    sampling: Tensor
    """k, the numerator and the denominator of δ/2, and the first k: all that an event changes. In the state, so that a
    checkpoint has it, whatever the constructor was told; in whole numbers, because `half()` and `double()` round
    others. Never written into: an event puts another tensor in its place."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        *,
        num_axes: Literal[1, 2] = 2,
        network: KernelNetwork = _NETWORK,
        mask: GaussianMask | None = None,
        causal: bool = False,
        groups: int = 1,
        bias: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        """Args:
            in_channels: C_in.
            out_channels: C_out.
            size: k, odd and at least 3; causal: at least 2.
            num_axes: A.
            network: of the kernel.
            mask: learnable extent; None: the kernel reaches over all of its taps (CKConv).
            causal: y(n) depends on x up to n only; for 1 axis.
            groups: as in `nn.Conv2d`; C_in for a convolution by channel.
            bias: whether there is b.
            generator: of the initial values; None: PyTorch's own.

        Raises:
            ValueError: sizes do not fit.
        """
        super().__init__()
        if num_axes not in (1, 2) or (causal and num_axes != 1):
            raise ValueError(f"a kernel has 1 or 2 axes, a causal one 1; got {num_axes}, causal {causal}.")
        if min(in_channels, out_channels, groups) < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide both channels, got {in_channels} to {out_channels} channels in {groups} groups."
            )
        _check_size(size, causal=causal)
        self.in_channels, self.out_channels, self.num_axes = in_channels, out_channels, num_axes
        self.mask, self.causal, self.groups = mask, causal, groups
        self.network = CoordinateNetwork(
            network, num_axes=num_axes, num_values=out_channels * in_channels // groups, generator=generator
        )
        self.mask_mean = self.mask_width = None
        if mask is not None:
            self.mask_mean = nn.Parameter(torch.full((num_axes,), 1.0 if causal else 0.0))
            self.mask_width = nn.Parameter(torch.full((num_axes,), mask.width))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.register_buffer("sampling", torch.tensor([size, 1, size - 1, size]))
        self._correct_variance_()

    @property
    def size(self) -> int:
        """k."""
        return int(self.sampling[0])

    def kernel(self) -> Tensor:
        """The sampled kernel, masked and scaled: (C_out, C_in/groups, k, ...), with fewer taps where it is cropped."""
        axes, mask = self._taps()
        values: Tensor = self.network(_grid(axes)) * (mask.unsqueeze(1) * self._scale())
        return values.T.reshape(self.out_channels, self.in_channels // self.groups, *(len(axis) for axis in axes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, *space) to (N, C_out, *space); outside of x there are zeros."""
        if x.dim() != self.num_axes + 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"a continuous convolution of {self.num_axes} axes expects (N, {self.in_channels}, "
                f"{'H, W' if self.num_axes == 2 else 'L'}), got {tuple(x.shape)}."
            )
        kernel = self.kernel()
        if self.num_axes == 2:
            half = (kernel.shape[2] // 2, kernel.shape[3] // 2)
            return F.conv2d(x, kernel, self.bias, padding=half, groups=self.groups)
        taps = kernel.shape[2]
        x = F.pad(x, (taps - 1, 0) if self.causal else (taps // 2, taps // 2))
        return F.conv1d(x, kernel, self.bias, groups=self.groups)

    def resampling(self, size: int) -> Tensor:
        """`sampling` for the same function of place with more (or fewer) taps: for signals sampled more finely.

        The reach stays, δ becomes that of `size` taps, and values are scaled by it, so that the output on a smooth
        signal sampled (size - 1)/(k - 1) times as finely converges, with δ, to an integral. From k taps to twice the
        resolution is 2 k - 1.

        Returns:
            What is to take the place of the buffer, as a tensor of its own, so that what is on its way keeps the old
            one. No parameter changes, so the optimiser and its state stay as they are.

        Raises:
            ValueError: the size is even (not causal) or too small.
        """
        _check_size(size, causal=self.causal)
        taps, numerator, denominator, first = self.sampling.tolist()
        step = Fraction(numerator, denominator) * Fraction(taps - 1, size - 1)
        return self.sampling.new_tensor([size, step.numerator, step.denominator, first])

    def extension(self, size: int) -> Tensor:
        """`sampling` for the same taps and more beyond them (or fewer): another reach at the same resolution.

        What the network says there decides, times the mask: with one of width σ, which is that of the first reach, new
        taps are at most exp(-1/(2σ²)) of the network's values, so that the function stays. Returns and raises as
        `resampling`.
        """
        _check_size(size, causal=self.causal)
        return self.sampling.new_tensor([size, *self.sampling.tolist()[1:]])

    def fresh_values(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Its parameters if it began now with the size it first had, by name."""
        drawn = ContinuousConv(
            self.in_channels,
            self.out_channels,
            int(self.sampling[3]),
            num_axes=self.num_axes,
            network=self.network.settings,
            mask=self.mask,
            causal=self.causal,
            groups=self.groups,
            bias=self.bias is not None,
            generator=generator,
        )
        return {name: value.detach() for name, value in drawn.named_parameters()}

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, size={self.size}, num_axes={self.num_axes}, "
            f"causal={self.causal}, groups={self.groups}, mask={self.mask}"
        )

    def _scale(self) -> float:
        _, numerator, denominator, first = self.sampling.tolist()
        return float((Fraction(numerator, denominator) * (first - 1)) ** self.num_axes)

    def _taps(self) -> tuple[list[Tensor], Tensor]:
        """Coordinates on each axis, (k,) each, and the mask at their grid, (k^A,)."""
        positions = self._positions()
        if self.mask is None or self.mask_mean is None or self.mask_width is None:
            return [positions] * self.num_axes, positions.new_ones(len(positions) ** self.num_axes)
        axes, masks = [], []
        for mean, width in zip(self.mask_mean, self.mask_width, strict=True):
            mask = torch.exp(-0.5 * ((positions - mean) / width.abs().clamp_min(_NARROWEST)) ** 2)
            inside = self._inside(mask.detach())
            axes.append(positions[inside])
            masks.append(mask[inside])
        return axes, _grid(masks).prod(1)

    def _positions(self) -> Tensor:
        """Coordinates of all taps of an axis, (k,)."""
        taps, numerator, denominator, _ = (int(value) for value in self.sampling.tolist())
        index = torch.arange(taps, device=self.sampling.device, dtype=next(self.parameters()).dtype)
        step = 2 * numerator / denominator
        return 1 - (taps - 1 - index) * step if self.causal else (index - (taps - 1) / 2) * step

    def _inside(self, mask: Tensor) -> slice:
        """Which taps are computed: around the middle, or up to now; one at least."""
        assert self.mask is not None
        kept = (mask >= self.mask.crop_below).nonzero().flatten()
        last = len(mask) - 1
        if self.causal:
            return slice(int(kept[0]) if len(kept) else last, None)
        half = int((kept - last // 2).abs().max()) if len(kept) else 0
        return slice(last // 2 - half, last // 2 + half + 1)

    def _correct_variance_(self) -> None:
        with torch.no_grad():
            axes, mask = self._taps()
            power = (mask.square() * self.network.features(_grid(axes)).square().mean(1)).sum()
            fan_in = self.in_channels // self.groups
            self.network.scale_output_(1 / math.sqrt(fan_in * float(power)))


def _grid(axes: list[Tensor]) -> Tensor:
    """All combinations, the last axis fastest: (product of their lengths, A)."""
    return torch.stack([part.flatten() for part in torch.meshgrid(*axes, indexing="ij")], dim=1)


def _check_size(size: int, *, causal: bool) -> None:
    if causal and size < 2:
        raise ValueError(f"a causal kernel must have at least 2 taps, got {size}: one tap has no distance to another.")
    if not causal and (size < 3 or size % 2 == 0):
        raise ValueError(
            f"the size of a kernel must be odd, so that it has a middle, and at least 3, got {size}. "
            f"Take {max(3, size + 1 - size % 2)}."
        )
