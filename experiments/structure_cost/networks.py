"""Which networks change: 10 million parameters in four stages, each with more to do than the one below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from dni import ConditionalSyntheticGradient, Convolutional, LowRank

__all__ = ["NETWORKS", "NUM_CLASSES", "Network", "sources"]

NUM_CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, and its layers that events are about."""

    title: str
    make: Callable[[], nn.Sequential]
    shape: tuple[int, ...]
    """Of a sample."""
    at: tuple[str, ...]
    """Where stages begin."""
    within: str
    """A layer whose units are read in its own stage."""
    boundary: str
    """A layer whose units are read by the stage above."""
    hidden: tuple[str, ...]
    """All layers that have hidden units."""
    stage: tuple[str, ...]
    """All layers with weights of the third stage, which has about its share of them."""
    kernel: tuple[int, ...] = ()
    """Of its layers, if they are convolutions."""

    def data(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Noise with random labels: as much work as anything else."""
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(num_samples, *self.shape, generator=drawn)
        return x, torch.randint(NUM_CLASSES, (num_samples,), generator=drawn)


def sources(network: Network) -> tuple[ConditionalSyntheticGradient, ...]:
    """Of all stages but the last, which so need no gradient to learn."""
    synthesizer = Convolutional(channels=(32,), kernel_size=3) if network.kernel else LowRank(32)
    return tuple(
        ConditionalSyntheticGradient(num_classes=NUM_CLASSES, synthesizer=synthesizer) for _ in range(len(network.at))
    )


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], NUM_CLASSES))


def _cnn(channels: Sequence[int], width: int) -> nn.Sequential:
    """Convolutions of 3x3 with BatchNorm on images of 16x16, of which 2x2 are left; two linear layers."""
    layers: list[nn.Module] = []
    for index, (a, b) in enumerate(pairwise((3, *channels))):
        layers += [nn.Conv2d(a, b, 3, stride=2 if index == 0 else 1, padding=1, bias=False), nn.BatchNorm2d(b)]
        layers += [nn.ReLU(), nn.MaxPool2d(2) if index in (1, len(channels) - 1) else nn.Identity()]
    linear = nn.Linear(channels[-1] * 4, width)
    return nn.Sequential(*layers, nn.Flatten(), linear, nn.ReLU(), nn.Linear(width, NUM_CLASSES))


NETWORKS: Mapping[str, Network] = {
    "MLP": Network(
        title="MLP, 8 layers of 950 to 1400 units",
        make=partial(_mlp, (784, 950, 950, 1050, 1050, 1200, 1200, 1400, 1400)),
        shape=(784,),
        at=("5", "9", "13"),
        within="13",
        boundary="11",
        stage=("9", "11"),
        hidden=tuple(str(place) for place in range(1, 17, 2)),
    ),
    "CNN": Network(
        title="CNN, 6 convolutions of 64 to 568 channels and a linear layer of 1100 units",
        make=partial(_cnn, (64, 128, 256, 568, 568, 568), 1100),
        shape=(3, 16, 16),
        at=("8", "16", "20"),
        within="20",
        boundary="16",
        stage=("16",),
        hidden=(*(str(place) for place in range(0, 24, 4)), "25"),
        kernel=(3, 3),
    ),
}
