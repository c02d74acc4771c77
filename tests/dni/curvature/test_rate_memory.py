"""Are rates averaged, lent to those that have none, and kept by name?"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dni import CurvatureSettings, RateMemory, Summary, newton_rates

EXACTLY: dict[str, Any] = {"rule": newton_rates, "factor": 1.0, "rate_memory": 0.0}


def _summary(*pairs: tuple[float, float]) -> Summary:
    """Of subsets a, b, ... that do not interact, from (g, H) of each."""
    g, h = torch.tensor(pairs, dtype=torch.float64).T
    return Summary(names=tuple("abc"[: len(g)]), gradient=g, hessian=torch.diag(h), third=torch.zeros_like(g))


def test_subset_without_a_rate_is_lent_the_mean_of_the_others_and_first_of_all_one() -> None:
    memory = RateMemory("abc", CurvatureSettings(**EXACTLY))
    assert (memory.lent_rates.tolist(), memory.rates.tolist(), memory.num_lent) == ([1.0] * 3, [0.0] * 3, 3)
    found = memory.learn(_summary((2, 1), (8, 2), (1, 1)), still=[2])
    assert found[:2].tolist() == [2.0, 4.0] and math.isnan(found[2])
    assert (memory.lent_rates.tolist(), memory.num_lent) == ([2.0, 4.0, 3.0], 1)


def test_flat_subset_keeps_its_rate_and_a_singular_summary_leaves_all_and_is_counted() -> None:
    memory = RateMemory("ab", CurvatureSettings(**EXACTLY))
    memory.learn(_summary((2, 1), (8, 2)), still=[])
    memory.learn(_summary((0, 0), (9, 1)), still=[])
    assert (memory.rates.tolist(), memory.num_unsolved) == ([2.0, 9.0], 0)
    assert memory.learn(_summary((1, 0), (1, 1)), still=[]).isnan().all()
    memory.miss()
    assert (memory.rates.tolist(), memory.num_summaries, memory.num_unsolved) == ([2.0, 9.0], 4, 2)


def test_rates_follow_the_names_of_subsets() -> None:
    memory = RateMemory("abc", CurvatureSettings(**EXACTLY, summary_memory=0.5))
    memory.learn(_summary((2, 1), (8, 2), (5, 1)), still=[])
    other = RateMemory(("c", "new", "a"), CurvatureSettings(**EXACTLY))
    other.load_state_dict(memory.state_dict())
    assert other.rates.tolist() == [5.0, 0.0, 2.0]
    assert other.lent_rates.tolist() == [5.0, 3.5, 2.0]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_memory_goes_on_from_its_state_as_if_never_stopped(share: float) -> None:
    settings = CurvatureSettings(rule=newton_rates, summary_memory=share)
    memory, resumed = RateMemory("ab", settings), RateMemory("ab", settings)
    memory.learn(_summary((2, 1), (8, 2)), still=[])
    resumed.load_state_dict(memory.state_dict())
    for each in (memory, resumed):
        each.learn(_summary((3, 1), (8, 5)), still=[])
    assert memory.rates.tolist() == resumed.rates.tolist()
    assert resumed.num_summaries == 2
