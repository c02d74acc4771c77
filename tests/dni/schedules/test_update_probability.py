"""Does a stage learn as often as its update probability says?"""

from __future__ import annotations

import pytest
import torch

from dni import UpdateProbability


def _draws(probability: float, steps: int) -> list[bool]:
    return [UpdateProbability(probability).draws(torch.Generator().manual_seed(step)) for step in range(steps)]


def test_draws_repeat_for_the_same_key_and_are_near_the_probability() -> None:
    drawn = _draws(0.25, 2000)
    assert drawn == _draws(0.25, 2000)
    assert sum(drawn) / 2000 == pytest.approx(0.25, abs=0.04)


def test_the_ends_are_certain() -> None:
    assert all(_draws(1.0, 200))
    assert not any(_draws(0.0, 200))


@pytest.mark.parametrize("probability", [-0.1, 1.1])
def test_a_probability_outside_zero_to_one_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=r"lie in \[0, 1\], got"):
        UpdateProbability(probability)
