"""What do the files of CIFAR-10 hold?

Each reader gives (images, labels): uint8 (N, 3, 32, 32), RGB, and uint8 (N,).
"""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["TEST", "TRAIN", "read_binaries", "read_pickles", "read_residual", "unpickle_arrays"]

Bytes: TypeAlias = NDArray[np.uint8]

TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
"""The official training batches, 10000 images each."""
TEST = ("test_batch",)
"""The official test images."""

_SHAPE = (3, 32, 32)
_PIXELS = 3072


def read_pickles(path: Path, batches: Sequence[str]) -> tuple[Bytes, Bytes]:
    """Some batches of cifar-10-python.tar.gz."""
    with tarfile.open(path) as archive:
        parts = [unpickle_arrays(_content(archive, f"cifar-10-batches-py/{name}")) for name in batches]
    images = np.concatenate([part["data"] for part in parts])
    labels = np.concatenate([np.asarray(part["labels"], np.uint8) for part in parts])
    return images.reshape(-1, *_SHAPE), labels


def read_binaries(path: Path, batches: Sequence[str]) -> tuple[Bytes, Bytes]:
    """Some batches of cifar-10-binary.tar.gz: records of a label and 3072 pixels."""
    with tarfile.open(path) as archive:
        content = b"".join(_content(archive, f"cifar-10-batches-bin/{name}.bin") for name in batches)
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:].reshape(-1, *_SHAPE), records[:, 0]


def read_residual(path: Path) -> tuple[Bytes, Bytes]:
    """A lossless subset as an npz, its pixels stored as differences modulo 256."""
    with np.load(path) as stored:
        rows = np.cumsum(stored["residual"], 3, dtype=np.uint8)
        labels = stored["labels"]
    images = np.cumsum(rows, 2, dtype=np.uint8)
    # Red and blue were stored minus green.
    images[:, 0] += images[:, 1]
    images[:, 2] += images[:, 1]
    return images, labels


def unpickle_arrays(content: bytes) -> dict[str, Any]:
    """A pickle of numbers, texts, containers and numpy arrays; anything else in it is refused.

    Raises:
        pickle.UnpicklingError: the pickle names a class or a function other than numpy's arrays.
    """
    return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()


class _ArrayUnpickler(pickle.Unpickler):
    """A pickle can call what it likes when it is read: only numpy's own constructors are let through."""

    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return np.empty(0).__reduce__()[0]  # the module has moved between versions of numpy
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return np.dtype
        raise pickle.UnpicklingError(
            f"a batch of CIFAR-10 holds numpy arrays only, found {module}.{name}: it is not the published file. "
            "Delete it."
        )


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None, f"{name} is a regular file of an archive whose checksum was right"
    return member.read()
