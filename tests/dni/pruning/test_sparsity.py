"""Do densities keep the number of parameters they promise, in the form of their equations?"""

from __future__ import annotations

from functools import partial
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dni import erdos_renyi, erdos_renyi_epsilon, erdos_renyi_kernel, random_masks, uniform_density
from pipeline.randomness.keyed import generator

KEYED = partial(generator, 0, step=0)
SHAPES = {"0.weight": (16, 3, 3, 3), "2.weight": (64, 16, 3, 3), "5.weight": (256, 1024), "7.weight": (10, 256)}


def _total(densities: dict[str, float]) -> float:
    return sum(density * prod(SHAPES[name]) for name, density in densities.items())


@settings(max_examples=20, deadline=None)
@given(density=st.floats(0.02, 1.0))
def test_every_distribution_keeps_as_much_in_all(density: float) -> None:
    wanted = density * sum(prod(shape) for shape in SHAPES.values())
    for make in (uniform_density, erdos_renyi, erdos_renyi_kernel):
        found = make(SHAPES, density)
        assert list(found) == list(SHAPES) and all(0 < p <= 1 for p in found.values())
        assert _total(found) == pytest.approx(wanted, rel=1e-9)


def test_densities_are_in_proportion_to_their_equations_where_they_are_below_1() -> None:
    plain, kernel = erdos_renyi(SHAPES, 0.05), erdos_renyi_kernel(SHAPES, 0.05)
    factor = {name: plain[name] / ((s[0] + s[1]) / (s[0] * s[1])) for name, s in SHAPES.items() if plain[name] < 1}
    assert len(factor) >= 2 and max(factor.values()) == pytest.approx(min(factor.values()))
    factor = {name: kernel[name] / (sum(s) / prod(s)) for name, s in SHAPES.items() if kernel[name] < 1}
    assert len(factor) >= 2 and max(factor.values()) == pytest.approx(min(factor.values()))
    assert plain["0.weight"] == 1.0, "it would need more than there is"
    assert erdos_renyi_epsilon({"a": (1000, 500)}, 20)["a"] == pytest.approx(20 * 1500 / 500_000)
    assert erdos_renyi_epsilon({"a": (10, 10)}, 20)["a"] == 1.0


def test_what_stays_dense_is_not_counted() -> None:
    for make in (uniform_density, erdos_renyi, erdos_renyi_kernel):
        found = make(SHAPES, 0.1, dense=["0.weight"])
        assert found["0.weight"] == 1.0
        counted = sum(prod(shape) for name, shape in SHAPES.items() if name != "0.weight")
        assert _total(found) - prod(SHAPES["0.weight"]) == pytest.approx(0.1 * counted)


def test_random_masks_have_their_size_and_belong_to_their_names() -> None:
    shapes = {name: SHAPES[name] for name in ("0.weight", "7.weight")}
    masks = random_masks(shapes, {"0.weight": 0.25, "7.weight": 0.1}, KEYED)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"0.weight": 108, "7.weight": 256}
    alone = random_masks({"7.weight": (10, 256)}, {"7.weight": 0.1}, KEYED)
    assert bool((alone["7.weight"] == masks["7.weight"]).all()) and masks["0.weight"].shape == (16, 3, 3, 3)


def test_what_cannot_be_sparse_is_refused_by_name() -> None:
    for density in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match=rf"must lie in \(0, 1\], got {density}"):
            erdos_renyi_kernel(SHAPES, density)
    with pytest.raises(ValueError, match=r"the density of 0\.bias must come from .* shape is \(16,\)"):
        uniform_density({"0.bias": (16,)}, 0.5)
    with pytest.raises(ValueError, match=r"what stays dense must be there, got 1\.weight; there are 0\.weight"):
        uniform_density(SHAPES, 0.5, dense=["1.weight"])
    with pytest.raises(ValueError, match="ε must be positive, got 0"):
        erdos_renyi_epsilon(SHAPES, 0)
    with pytest.raises(ValueError, match=r"between 1 and 4 numbers of a must be kept, got 0 \(density 0.1\)"):
        random_masks({"a": (2, 2)}, {"a": 0.1}, KEYED)
    with pytest.raises(ValueError, match="every tensor needs a density, found none for a"):
        random_masks({"a": (2, 2)}, {"b": 0.1}, KEYED)
