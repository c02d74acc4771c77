"""What does one application of a layer's weight read and compute?

A Linear applies its weight at each token, a convolution at each place: Z = W X with X, (n, T). So both are a matrix of
m outputs by n inputs. Letters: N samples, T places (1 for a Linear on vectors).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["check_matrix_layer", "inputs_by_place", "outputs_by_place"]


def check_matrix_layer(name: str, layer: nn.Module) -> nn.Linear | nn.Conv1d | nn.Conv2d:
    """The layer, if its weight is one matrix.

    Raises:
        TypeError: it is of another kind, or a convolution in groups.
    """
    if isinstance(layer, nn.Linear):
        return layer
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1:
        return layer
    raise TypeError(
        f"{name!r} must be a Linear, or a Conv1d or Conv2d of one group, for its Hessian to be near a Kronecker "
        f"product, got {layer}. Choose another layer; products and eigenpairs work for any."
    )


def inputs_by_place(layer: nn.Linear | nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """X, (N, n, T), of what the layer is called with."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), -1, x.shape[-1]).transpose(1, 2)
    # The layer's own list of pads, which also holds what "same" comes to.
    pads = list(layer._reversed_padding_repeated_twice)
    x = F.pad(x, pads, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    # torch unfolds images only, so a row is made one.
    row = isinstance(layer, nn.Conv1d)
    kernel, dilation, stride = (
        (1, *setting) if row else tuple(setting) for setting in (layer.kernel_size, layer.dilation, layer.stride)
    )
    return F.unfold(x[:, :, None] if row else x, kernel, dilation=dilation, stride=stride)


def outputs_by_place(layer: nn.Linear | nn.Conv1d | nn.Conv2d, z: Tensor) -> Tensor:
    """Z, (N, m, T), of what it computes."""
    if isinstance(layer, nn.Linear):
        return z.reshape(len(z), -1, z.shape[-1]).transpose(1, 2)
    return z.flatten(2)
