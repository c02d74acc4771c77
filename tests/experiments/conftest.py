"""What do the tests of experiments share?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from experiments import datasets


@pytest.fixture(scope="module")
def read_once() -> Iterator[None]:
    """Every data set of digits or clothing is unpacked once for all tests of the module, which leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_read_idx_set", cache(datasets._read_idx_set))
        yield
