"""Which new units would learn fastest?

Those with incoming weights of 0 and outgoing weights along the directions in which the incoming gradient is largest.
The function is unchanged, and their first gradient is as large as outgoing weights of their norm can make it.

With U the incoming and V the outgoing weights of new units between h and z, dL/dU = s'(0) V^T G at U = 0, where
G = sum over samples of (dL/dz) h^T: the gradient that a layer of zeros straight from h to z would have.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from dni.structure.hidden import Hidden
from dni.structure.unit_axis import UnitAxis
from dni.structure.unit_layers import GATE

__all__ = ["auxiliary_gradient", "auxiliary_gradient_of_convolutions", "gradmax_values"]


def auxiliary_gradient(h: Tensor, gradient: Tensor) -> Tensor:
    """G of two Linear layers.

    Args:
        h: what the first layer reads, (N, I).
        gradient: dL/dz at what the second layer puts out, (N, O).

    Returns:
        (O, I).
    """
    return gradient.flatten(0, -2).T @ h.flatten(0, -2)


def auxiliary_gradient_of_convolutions(
    h: Tensor, gradient: Tensor, *, producer: nn.Conv1d | nn.Conv2d, consumer: nn.Conv1d | nn.Conv2d
) -> Tensor:
    """G of two convolutions: each entry of an outgoing kernel against each of an incoming one.

    Args:
        h: what the first convolution reads, (N, I, *size).
        gradient: dL/dz at what the second one puts out, (N, O, *size).
        producer: gives kernel, stride, padding and dilation of the first; no groups, zeros around.
        consumer: those of the second, which reads the first element by element (an activation, no pooling between).

    Returns:
        (O * prod(kernel), I * prod(kernel)), kernels as the weights have them.

    Raises:
        ValueError: a padding is not in numbers, or is not of zeros.
    """
    first, second = _window(producer), _window(consumer)
    if h.dim() == 3:
        h, gradient = h.unsqueeze(2), gradient.unsqueeze(2)
    size, taps = second["kernel_size"], second["kernel_size"][0] * second["kernel_size"][1]
    num_out = gradient.shape[1]
    units = _output_size(h.shape[-2:], first)
    # What each tap of an outgoing kernel, alone, would pull back to the units.
    each = torch.eye(taps, dtype=h.dtype, device=h.device).view(1, taps, *size).repeat(num_out, 1, 1, 1)
    pulled = conv2d_input(  # type: ignore[no-untyped-call]
        [h.shape[0], num_out * taps, *units],
        each,
        gradient,
        stride=second["stride"],
        padding=second["padding"],
        dilation=second["dilation"],
        groups=num_out,
    ).flatten(2)
    read = F.unfold(
        h, first["kernel_size"], dilation=first["dilation"], padding=first["padding"], stride=first["stride"]
    )
    return torch.einsum("nax,nbx->ab", pulled, read)


def gradmax_values(
    hidden: Hidden,
    auxiliary: Tensor,
    count: int,
    *,
    activation: Callable[[Tensor], Tensor],
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """Incoming weights 0 and outgoing weights along the top singular vectors of G, for units to append.

    V = c [u_1 .. u_k], u_i the left singular vectors of G (O, I): the right ones of its transpose, which the paper
    decomposes.    Source: Evci et al. 2022, "GradMax" (arXiv 2201.05125). As in its code, c = scale times the
    mean norm of the old units' outgoing weights.

    Args:
        hidden: units with one producer, one consumer and no norm in between.
        auxiliary: G, see `auxiliary_gradient`; over as many samples as there is patience for. Its size does not matter.
        count: number of new units, at most the smaller side of G.
        activation: between the two, element by element.
        scale: norm of a new unit's outgoing weights, in the mean of the old.

    Returns:
        What `change_units` is given of them, by tensor.

    Raises:
        ValueError: the activation gives new units no gradient (torch's ReLU has slope 0 at 0) or changes the function,
            the units have norms or several producers or consumers, or G is of another layer or too small.
    """
    _check_passes_zero(activation)
    made = {name: own for name, own in hidden.sides("producer") if own.bound}
    read = dict(hidden.sides("consumer"))
    norms = [name for name, own in hidden.sides("producer") if not own.bound and not name.endswith(f".{GATE}")]
    weights = [own for own in made.values() if own.tensor.dim() > 1]
    if norms or len(read) != 1 or len(weights) != 1 or {own.at for own in read.values()} != {UnitAxis(axis=1)}:
        raise ValueError(
            "GradMax needs one layer that computes the units, and one that reads each as one entry, straight behind "
            f"the activation; got {', '.join(made) or 'none'} and {', '.join(read) or 'none'}"
            f"{''.join(f', and {name}' for name in norms)}. Let new units begin as those of torch do."
        )
    ((name, consumer),) = read.items()
    out, *kernel = consumer.shape_of(0)[:1] + consumer.shape_of(0)[2:]
    sides = (consumer.tensor[:, 0].numel(), weights[0].tensor[0].numel())
    if tuple(auxiliary.shape) != sides or not 0 <= count <= min(sides):
        raise ValueError(
            f"G of this layer must be {sides}, outgoing by incoming weights of a unit, and yields at most {min(sides)} "
            f"new units; got {tuple(auxiliary.shape)} for {count} units."
        )
    directions = torch.linalg.svd(auxiliary.to(torch.float64), full_matrices=False).U[:, :count]
    norm = scale * consumer.tensor.movedim(1, 0).flatten(1).to(torch.float64).norm(dim=1).mean()
    outgoing = (norm * directions).view(out, *kernel, count).movedim(-1, 1).to(consumer.tensor)
    return {own: torch.zeros(unit.shape_of(count)).to(unit.tensor) for own, unit in made.items()} | {name: outgoing}


def _check_passes_zero(activation: Callable[[Tensor], Tensor]) -> None:
    """Raise `ValueError` unless s(0) = 0 and s'(0) is not 0."""
    with torch.enable_grad():
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        y = activation(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
    if y.item() != 0 or slope.item() == 0:
        raise ValueError(
            f"units that begin at 0 need an activation with s(0) = 0 and a slope there, got s(0) = {y.item():.4g} and "
            f"s'(0) = {slope.item():.4g}. Use GELU, SiLU, Tanh or LeakyReLU (torch gives ReLU slope 0 at 0)."
        )


def _window(layer: nn.Conv1d | nn.Conv2d) -> dict[str, tuple[int, int]]:
    """Kernel, stride, padding and dilation in two dimensions."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ValueError(
            f"the gradient of convolutions needs paddings in numbers, of zeros; got padding={layer.padding!r}, "
            f"padding_mode={layer.padding_mode!r}. Write the padding in numbers, or add random units."
        )
    names = ("kernel_size", "stride", "padding", "dilation")
    one = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    values = {name: tuple(getattr(layer, name)) for name in names}
    return {name: (one[name], value[0]) if len(value) == 1 else (value[0], value[1]) for name, value in values.items()}


def _output_size(size: torch.Size, window: dict[str, tuple[int, int]]) -> list[int]:
    return [
        (n + 2 * window["padding"][i] - window["dilation"][i] * (window["kernel_size"][i] - 1) - 1)
        // window["stride"][i]
        + 1
        for i, n in enumerate(size)
    ]
