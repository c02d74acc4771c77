"""The main job in small: four stages on handwritten digits, from synthetic gradients, in four processes.

The data is the set of 1,797 digits (8 x 8 pixels) that scikit-learn carries, so nothing is downloaded.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dni import Bernoulli, ConditionalSyntheticGradient
from pipeline.configuration.config import Adam, Config, Data
from pipeline.data.feed import KeyedBatches

__all__ = ["digits", "quickstart"]

_NUM_TRAIN = 1500
_BATCH_SIZE = 32


def quickstart() -> Config:
    """Train a network of four stages that do not wait for each other; test accuracy about 0.97."""
    return Config(
        model=_network,
        data=digits,
        loss=nn.CrossEntropyLoss(),
        source=ConditionalSyntheticGradient(num_classes=10),
        sync=Bernoulli(0.1),
        optimizer=Adam(lr=1e-3),
        steps=1500,
        at=("3", "6", "9"),
        executor="distributed",
        evaluate_every=500,
        checkpoint_every=500,
    )


def digits(batch_size: int = _BATCH_SIZE) -> Data:
    """scikit-learn's digits, pixels in [0, 1]: 1,500 to train on, 297 to test on, split by a fixed draw."""
    x, target = _images()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:_NUM_TRAIN], order[_NUM_TRAIN:]
    return Data(
        train=KeyedBatches(x[train], target[train], batch_size=batch_size),
        test=[(x[test], target[test])],
    )


def _images() -> tuple[Tensor, Tensor]:
    """What scikit-learn's `load_digits` reads, (1797, 64) in [0, 1] and (1797,), without importing scikit-learn.

    That takes a second of processor time, which every process of a run would spend on one small file.
    """
    spec = find_spec("sklearn")
    assert spec is not None and spec.origin is not None, "scikit-learn is one of our requirements"
    with gzip.open(Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return torch.tensor(rows[:, :-1], dtype=torch.float32) / 16.0, torch.tensor(rows[:, -1])


def _network() -> nn.Sequential:
    """Three hidden layers of 128 units and a linear output."""
    hidden = [layer for width in (64, 128, 128) for layer in (nn.Linear(width, 128), nn.BatchNorm1d(128), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(128, 10))
