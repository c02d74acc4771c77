"""Processes that the tests of several ranks share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.spawn import Ranks

torch.set_num_threads(1)  # as the configuration's default; results on CPU depend on it


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Worker processes, started at the first use and ended with the session."""
    pool = Ranks()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def mortals() -> Iterator[Ranks]:
    """Worker processes for tests that kill some of them; the others are used again."""
    pool = Ranks()
    yield pool
    pool.close()
