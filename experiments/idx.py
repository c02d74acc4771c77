"""What does a gzipped IDX file (MNIST, Fashion-MNIST) hold?

Two zero bytes, a type code (8: uint8), the number of dimensions, each dimension as a big-endian 32-bit number, then
the values.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import ConfigurationError

__all__ = ["read_idx"]

_UINT8 = 8


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in the file, with the file's own shape.

    Raises:
        ConfigurationError: the file is no IDX file of bytes, or holds more or fewer values than it says.
    """
    content = gzip.decompress(path.read_bytes())
    zero, code, num_dimensions = struct.unpack_from(">HBB", content)
    if zero != 0 or code != _UINT8:
        raise ConfigurationError(
            f"{path} must begin with the bytes 0 0 8 (IDX of uint8), found {[*content[:3]]}. Delete it."
        )
    begin = 4 + 4 * num_dimensions
    shape = struct.unpack_from(f">{num_dimensions}I", content, 4)
    if len(content) - begin != math.prod(shape):
        raise ConfigurationError(
            f"{path} must hold {math.prod(shape)} values {shape}, found {len(content) - begin}. Delete it."
        )
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)
