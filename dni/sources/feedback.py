"""What if the way back does not know the weights of the way up? Layers with backward weights of their own.

Letters: N samples, I and O features in and out; B has the shape of the weight W.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["FeedbackMode", "convert_to_feedback_alignment"]

FeedbackMode: TypeAlias = Literal["random", "sign"]
"""random: B is drawn once. sign: the size of B is drawn once, its sign is that of W at each forward."""

_Gradients: TypeAlias = tuple[Tensor | None, ...]
"""Of x, weight and bias; None where one is not wanted."""


def convert_to_feedback_alignment(
    module: nn.Module, *, generator: torch.Generator, mode: FeedbackMode = "random"
) -> None:
    """Let every Linear and Conv layer of `module` send back e B instead of e W, in place.

    For y = x W^T + b with e = dL/dy, (N, O): dL/dx becomes e B, while dL/dW = e^T x and dL/db = sum of e stay what they
    were; for convolutions the same with the transposed convolution. The forward does not change by a bit. A layer stays
    the same object with the same parameters and hooks, and gets a buffer `feedback`, which is in the state dict: B, or
    for "sign" its size. B is drawn as PyTorch draws W: uniform in ±1/sqrt(fan_in).

    This is a rule for the way back through a module, not a `GradientSource`: convert a network before or after it is
    cut, give its boundaries `TrueGradient`, and what crosses them has come through B. Weights that a module applies
    outside these layers (an affine BatchNorm, a parameter of your own) go on sending back the exact gradient.

    Source: Lillicrap et al. 2016 (arXiv 1411.0247), feedback alignment; for "sign" Liao et al. 2016 (arXiv
    1510.05067), sign-concordant with fixed random sizes. Differs: B has the scale of W at its start.

    Args:
        module: what to convert; may itself be a Linear or Conv layer.
        generator: B of each layer is drawn from it, in the order of `module.named_modules()`.
        mode: "random" or "sign".

    Raises:
        ValueError: there is nothing to convert; a layer was converted before; or there is a layer that cannot be: a
            transposed convolution, a recurrent, bilinear or attention layer, a subclass of Linear or Conv, or a
            convolution whose padding "same" is not the same on both sides.
    """
    if mode not in ("random", "sign"):
        raise ValueError(f"mode must be 'random' or 'sign', got {mode!r}.")
    layers = [layer for name, layer in module.named_modules() if _is_to_be_converted(layer, name)]
    if not layers:
        raise ValueError(f"there must be a Linear or Conv layer to convert, got {type(module).__name__} without one.")
    for layer in layers:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        bound = 1.0 / math.sqrt(weight[0].numel())
        low = -bound if mode == "random" else 0.0
        drawn = torch.empty(weight.shape, device=generator.device).uniform_(low, bound, generator=generator)
        layer.register_buffer("feedback", drawn.to(weight))
        layer.feedback_mode = mode
        layer.__class__ = _CONVERTED[type(layer)]


class _Map(torch.autograd.Function):
    """forward(x, weight, bias), whose backward is `back(e, x, B, wanted)`."""

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        feedback: Tensor,
        forward: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        back: Callable[[Tensor, Tensor, Tensor, tuple[bool, ...]], _Gradients],
    ) -> Tensor:
        context.save_for_backward(x, feedback)
        context.back = back
        return forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(context: Any, error: Tensor) -> _Gradients:
        x, feedback = context.saved_tensors
        return (*context.back(error, x, feedback, context.needs_input_grad[:3]), None, None, None)


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return _Map.apply(input, self.weight, self.bias, _feedback(self), F.linear, _linear_back)  # type: ignore[no-any-return, no-untyped-call]


class _Conv1d(nn.Conv1d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(self, F.conv1d, input, weight, bias)


class _Conv2d(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(self, F.conv2d, input, weight, bias)


class _Conv3d(nn.Conv3d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(self, F.conv3d, input, weight, bias)


_CONVERTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _Linear,
    nn.Conv1d: _Conv1d,
    nn.Conv2d: _Conv2d,
    nn.Conv3d: _Conv3d,
}
_EXACT = (nn.modules.conv._ConvTransposeNd, nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Other layers of PyTorch that send a gradient back through weights."""


def _is_to_be_converted(layer: nn.Module, name: str) -> bool:
    if not isinstance(layer, (*_CONVERTED, *_EXACT)):
        return False
    where = f"layer '{name}', a {type(layer).__name__}," if name else f"the layer, a {type(layer).__name__},"
    if isinstance(layer, tuple(_CONVERTED.values())):
        raise ValueError(f"{where} was converted before. Convert a fresh copy of the module.")
    if type(layer) not in _CONVERTED:
        raise ValueError(
            f"{where} cannot be converted and would send back the exact gradient. "
            "Convert modules of Linear, Conv1d, Conv2d and Conv3d only."
        )
    if not isinstance(layer, nn.Linear) and layer.padding_mode == "zeros" and _padding(layer) is None:
        raise ValueError(
            f"{where} has padding 'same' with more zeros on one side than on the other. Pad before it (nn.ZeroPad2d)."
        )
    return True


def _feedback(layer: Any) -> Tensor:
    feedback: Tensor = layer.feedback
    return feedback * layer.weight.detach().sign() if layer.feedback_mode == "sign" else feedback


def _linear_back(error: Tensor, x: Tensor, feedback: Tensor, wanted: tuple[bool, ...]) -> _Gradients:
    rows = error.flatten(0, -2)
    return (
        error @ feedback if wanted[0] else None,
        rows.T @ x.flatten(0, -2) if wanted[1] else None,
        rows.sum(0) if wanted[2] else None,
    )


def _convolve(layer: Any, function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `nn.Conv1d` to `nn.Conv3d` do, with another way back; padding that is not of zeros comes before it."""
    stride, dilation, groups = layer.stride, layer.dilation, layer.groups
    padding, numbers = layer.padding, _padding(layer)
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = numbers = (0,) * len(stride)

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return function(x, weight, bias, stride, padding, dilation, groups)

    def back(error: Tensor, x: Tensor, feedback: Tensor, wanted: tuple[bool, ...]) -> _Gradients:
        sizes = (feedback.shape[0],)
        nothing_more = (0,) * len(stride)
        found: _Gradients = torch.ops.aten.convolution_backward(
            error, x, feedback, sizes, stride, numbers, dilation, False, nothing_more, groups, wanted
        )
        return found

    return _Map.apply(x, weight, bias, _feedback(layer), forward, back)  # type: ignore[no-any-return, no-untyped-call]


def _padding(layer: Any) -> tuple[int, ...] | None:
    """Zeros on each side, per axis; None where the two sides differ."""
    if layer.padding == "valid":
        return (0,) * len(layer.stride)
    if layer.padding != "same":
        return tuple(layer.padding)
    both = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(count % 2 for count in both) else tuple(count // 2 for count in both)
