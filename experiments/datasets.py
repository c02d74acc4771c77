"""Which data do experiments learn from?

Every file is looked for in the folder that the environment variable DNI_DATA names (mnist/, fashion-mnist/,
cifar10/), and is otherwise downloaded once. Pixels are scaled to [0, 1] and normalised by constants, the mean and
standard deviation of the training pixels (per channel for CIFAR-10):

    MNIST           0.1307                    0.3081
    Fashion-MNIST   0.2860                    0.3530
    CIFAR-10        0.4914 0.4822 0.4465      0.2470 0.2435 0.2616      (for the subset too)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments import cifar10 as cifar
from experiments.datafile import DataFile
from experiments.idx import read_idx

__all__ = ["Dataset", "Layout", "cifar10", "cifar10_subset", "fashion_mnist", "mnist"]

Layout: TypeAlias = Literal["flat", "image"]
"""flat: (N, C H W), as for MNIST (N, 784). image: (N, C, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images in memory, normalised, in the publisher's order."""

    train_x: Tensor
    """float32, (N, C H W) or (N, C, H, W)."""
    train_y: Tensor
    """int64, (N,)."""
    test_x: Tensor
    test_y: Tensor
    num_classes: int


def mnist(layout: Layout = "flat") -> Dataset:
    """60000 and 10000 handwritten digits, 28 x 28.

    Raises:
        ConfigurationError: a file cannot be had, or is not the published one.
    """
    return _read_idx_set(_MNIST, layout, mean=0.1307, deviation=0.3081)


def fashion_mnist(layout: Layout = "flat") -> Dataset:
    """60000 and 10000 pictures of clothing, 28 x 28.

    Raises:
        ConfigurationError: a file cannot be had, or is not the published one.
    """
    return _read_idx_set(_FASHION_MNIST, layout, mean=0.2860, deviation=0.3530)


def cifar10(layout: Layout = "image") -> Dataset:
    """50000 and 10000 photographs, 3 x 32 x 32, from the publisher's Python or binary archive.

    Raises:
        ConfigurationError: neither archive can be had, or it is not the published one.
    """
    if _CIFAR10_BINARY.local is not None and _CIFAR10_PYTHON.local is None:
        read, path = cifar.read_binaries, _CIFAR10_BINARY.find()
    else:
        read, path = cifar.read_pickles, _CIFAR10_PYTHON.find()
    return _cifar10(*read(path, cifar.TRAIN), *read(path, cifar.TEST), layout=layout)


def cifar10_subset(layout: Layout = "image") -> Dataset:
    """The first 20000 training and 5000 test photographs of CIFAR-10, in DNI_DATA only.

    Results on it are not comparable with published ones.

    Raises:
        ConfigurationError: a file is not there, or not the right one.
    """
    train, test = (cifar.read_residual(file.find()) for file in _CIFAR10_SUBSET)
    return _cifar10(*train, *test, layout=layout)


def _idx_files(folder: str, url: str, *checksums: str) -> tuple[DataFile, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(
        DataFile(
            folder=folder,
            name=f"{name}-ubyte.gz",
            checksum=f"sha256:{checksum}",
            url=f"{url}/{name}-ubyte.gz",
        )
        for name, checksum in zip(names, checksums, strict=True)
    )


_MNIST = _idx_files(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
_FASHION_MNIST = _idx_files(
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
_CIFAR10_PYTHON = DataFile(
    folder="cifar10",
    name="cifar-10-python.tar.gz",
    checksum="md5:c58f30108f718f92721af3b95e74349a",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
_CIFAR10_BINARY = DataFile(
    folder="cifar10",
    name="cifar-10-binary.tar.gz",
    checksum="md5:c32a1d4ab5d03f1284b67883e8d87530",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
_CIFAR10_SUBSET = (
    DataFile(
        folder="cifar10",
        name="train_batches_1-2.npz",
        checksum="sha256:0f481f7816c3b08e8e3952882e2bea728b64a5fe1b9ed226a763f9277085d3c9",
    ),
    DataFile(
        folder="cifar10",
        name="test_first_5000.npz",
        checksum="sha256:e2f7fff5bee5f8d412ff9b85d17dabc4e0327df4d391e89f50bff69239086e33",
    ),
)


def _read_idx_set(files: Sequence[DataFile], layout: Layout, *, mean: float, deviation: float) -> Dataset:
    train_x, train_y, test_x, test_y = (read_idx(file.find()) for file in files)
    return Dataset(
        train_x=_normalised(train_x[:, None], layout, mean=[mean], deviation=[deviation]),
        train_y=_labels(train_y),
        test_x=_normalised(test_x[:, None], layout, mean=[mean], deviation=[deviation]),
        test_y=_labels(test_y),
        num_classes=10,
    )


def _cifar10(
    train_x: cifar.Bytes, train_y: cifar.Bytes, test_x: cifar.Bytes, test_y: cifar.Bytes, *, layout: Layout
) -> Dataset:
    mean, deviation = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    return Dataset(
        train_x=_normalised(train_x, layout, mean=mean, deviation=deviation),
        train_y=_labels(train_y),
        test_x=_normalised(test_x, layout, mean=mean, deviation=deviation),
        test_y=_labels(test_y),
        num_classes=10,
    )


def _normalised(
    pixels: NDArray[np.uint8], layout: Layout, *, mean: Sequence[float], deviation: Sequence[float]
) -> Tensor:
    """(N, C, H, W) uint8 to float32."""
    x = torch.from_numpy(pixels.astype(np.float32)).div_(255)
    x.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(deviation)[:, None, None])
    return x.flatten(1) if layout == "flat" else x


def _labels(labels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))
