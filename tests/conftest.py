"""What do all tests share?"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.spawn import Ranks, warm_up

# torch looks up the name behind every connection to a store; where no name server answers, that takes 5 s now and then.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")


def pytest_report_header() -> str:
    return f"torch {torch.__version__}, CUDA {'yes' if torch.cuda.is_available() else 'no'}"


@pytest.fixture(scope="session", autouse=True)
def _ranks_warmed_up(request: pytest.FixtureRequest) -> None:
    """While the first tests run, the process that ranks are forked from imports what they need."""
    if any(item.get_closest_marker("distributed") for item in request.session.items):
        warm_up()


@pytest.fixture(autouse=True)
def _one_thread_and_the_generator_given_back() -> Iterator[None]:
    """Results on CPU depend on the number of threads; what a test draws must not reach the next one."""
    torch.set_num_threads(1)
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(0)
    yield
    torch.default_generator.set_state(state)


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
