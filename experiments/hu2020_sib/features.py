"""What does a classifier see of a drawing? A network trained to tell the training characters apart, then frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.hu2020_sib.config import Settings
from experiments.omniglot import Omniglot
from pipeline.randomness.keyed import generator, key

__all__ = ["Features", "compute_features", "feature_network", "train_features"]


@dataclass(frozen=True, kw_only=True)
class Features:
    """The parts of Omniglot as (characters, 20, F)."""

    train: Tensor
    validation: Tensor
    test: Tensor


def feature_network(channels: int) -> nn.Sequential:
    """Four blocks of convolution, BatchNorm, ReLU, max-pool: (N, 1, 28, 28) to (N, channels)."""
    widths = (1, channels, channels, channels)
    return nn.Sequential(*(_block(before, channels) for before in widths), nn.Flatten())


def train_features(
    drawings: Tensor, *, seed: int, settings: Settings, on_loss: Callable[[float], None] = lambda loss: None
) -> nn.Sequential:
    """A feature network trained by cosine classification of the training characters, in evaluation mode.

    Args:
        drawings: (characters, 20, 1, 28, 28).
        seed: of the initial weights and the order.
        settings: rates and sizes.
        on_loss: hears the loss of each batch.
    """
    x, target = drawings.flatten(0, 1), torch.arange(len(drawings)).repeat_interleave(drawings.shape[1])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "network", 0))
        network = feature_network(settings.channels)
        # Of length about 1: Adam turns long vectors slowly.
        classes = nn.Parameter(torch.randn(len(drawings), settings.channels) / settings.channels**0.5)
    scale = nn.Parameter(torch.tensor(10.0))
    optimizer = torch.optim.Adam([*network.parameters(), classes, scale], lr=settings.feature_rate)
    num_batches = len(x) // settings.feature_batch_size  # what does not fill a batch is left out of its epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.feature_rate, total_steps=settings.epochs * num_batches
    )
    for epoch in range(settings.epochs):
        order = torch.randperm(len(x), generator=generator(seed, "order", epoch))
        for batch in order.split(settings.feature_batch_size)[:num_batches]:
            optimizer.zero_grad()
            cosine = F.normalize(network(x[batch]), dim=1) @ F.normalize(classes, dim=1).T
            loss = F.cross_entropy(scale * cosine, target[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            on_loss(loss.item())
    return network.eval()


def compute_features(network: nn.Module, data: Omniglot) -> Features:
    """What the network makes of every drawing."""
    with torch.no_grad():
        parts = {
            name: torch.stack([network(character) for character in part])
            for name, part in {"train": data.train, "validation": data.validation, "test": data.test}.items()
        }
    return Features(**parts)


def _block(before: int, channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2))
