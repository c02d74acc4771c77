"""Is a mean written with its deviation where there is one?"""

from __future__ import annotations

from experiments.spread import spread


def test_several_values_have_a_deviation_and_a_sign_stands_before_the_mean_alone() -> None:
    assert spread([1.0, 2.0, 3.0], ".2f") == "2.00 ± 1.00"
    assert spread([1.0, 2.0], "+.1f") == "+1.5 ± 0.7"
    assert spread([2.345], ".2f") == f"{2.345:.2f}"
