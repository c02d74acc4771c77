"""Which networks change their structure?

All have layers with parameters of the names layer1, layer2, ..., are chains without normalisation, and are cut before
layer2 and before the last, so that the units of layer1, and those of the last hidden layer, cross a boundary.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

__all__ = ["Activation", "convolutional", "num_parameters", "perceptron", "with_kernels"]

Activation = Callable[[], nn.Module]


def perceptron(inputs: int, widths: Sequence[int], activation: Activation = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths, and one of 10 outputs."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, (before, after) in enumerate(pairwise((inputs, *widths)), 1):
        layers |= {f"layer{i}": nn.Linear(before, after), f"act{i}": activation()}
    layers[f"layer{len(widths) + 1}"] = nn.Linear(widths[-1], 10)
    return nn.Sequential(layers)


def convolutional(channels: int, side: int, widths: Sequence[int], activation: Activation = nn.ReLU) -> nn.Sequential:
    """Convolutions of 3 x 3 with stride 2 and these widths, and a linear layer of 10 outputs."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after) in enumerate(pairwise((channels, *widths)), 1):
        layers |= {f"layer{i}": nn.Conv2d(before, after, 3, stride=2, padding=1), f"act{i}": activation()}
        side = (side + 1) // 2
    layers |= {"flatten": nn.Flatten(), f"layer{len(widths) + 1}": nn.Linear(side**2 * widths[-1], 10)}
    return nn.Sequential(layers)


def with_kernels(
    channels: int, side: int, widths: tuple[int, int], kernel: Callable[[int, int], nn.Module]
) -> nn.Sequential:
    """Two convolutions of stride 1, as `kernel` makes them of their channels, each with a pooling; a linear layer."""
    first, second = widths
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        layer1=kernel(channels, first), act1=nn.ReLU(), pool1=nn.MaxPool2d(2)
    )
    layers |= {"layer2": kernel(first, second), "act2": nn.ReLU(), "pool2": nn.MaxPool2d(2)}
    return nn.Sequential(layers | {"flatten": nn.Flatten(), "layer3": nn.Linear((side // 4) ** 2 * second, 10)})


def num_parameters(network: nn.Module) -> int:
    """Biases included."""
    return sum(parameter.numel() for parameter in network.parameters())
