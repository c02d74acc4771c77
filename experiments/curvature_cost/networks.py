"""Which networks are the cost measured on?

The three that the paper trains on CIFAR-10, and one that is no chain of layers. Weights are drawn from
N(0, sigma^2 / fan-in), biases are 0, and nothing normalises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "Network", "Residual", "initialised"]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and how its initial weights are drawn."""

    title: str
    make: Callable[[], nn.Module]
    sigma: float
    """Of the weights, times the root of the fan-in."""
    flat: bool = False
    """It takes (N, 3072) instead of (N, 3, 32, 32)."""
    is_chain: bool = True


class Residual(nn.Module):
    """Two convolutions and what enters them, or a projection of it, added: no chain of layers."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.lower = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.activation = nn.ELU()
        self.upper = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.last = nn.ELU()

    def forward(self, h: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.last(self.upper(self.activation(self.lower(h))) + self.skip(h))
        return y


def _lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
    )


def _vgg() -> nn.Module:
    """VGG-11 with a single linear layer; "M" halves the picture."""
    plan = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
    layers: list[nn.Module] = []
    channels = 3
    for each in plan:
        if isinstance(each, int):
            layers += [nn.Conv2d(channels, each, 3, padding=1), nn.ELU()]
            channels = each
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))


def _mlp() -> nn.Module:
    widths = (3072, *[1024] * 20)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ELU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10))


def _resnet() -> nn.Module:
    blocks = [Residual(a, b, stride=stride) for a, b, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2))]
    stem = (nn.Conv2d(3, 16, 3, padding=1), nn.ELU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


NETWORKS: Mapping[str, Network] = {
    "lenet": Network(title="LeNet, tanh", make=_lenet, sigma=1.0),
    "vgg": Network(title="VGG-11', ELU", make=_vgg, sigma=2**0.5),
    "mlp": Network(title="MLP, 20 x 1024, ELU", make=_mlp, sigma=2**0.5, flat=True),
    "resnet": Network(title="ResNet, 3 blocks, ELU", make=_resnet, sigma=1.0, is_chain=False),
}


def initialised(network: Network, *, seed: int = 0) -> nn.Module:
    """A network with its initial weights."""
    module = network.make()
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, own in module.named_parameters():
            if name.endswith("bias"):
                own.zero_()
            else:
                own.normal_(std=network.sigma * own[0].numel() ** -0.5, generator=drawn)
    return module.eval()
