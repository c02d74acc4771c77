"""Are active parameters those that moved farthest, where are they, and do they go back to where they began?

Every set is compared with one found by sorting a list of numbers; weights are small and in float64.
"""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor, nn

from dni import (
    absolute_distance,
    active_beyond,
    distance_in_deviations,
    layer_of,
    least_active,
    locate_by_layer,
    most_active,
    random_in_layers,
    random_parameters,
    relative_distance,
    reset_to_initial,
)

SHARES = (0.0, 0.1, 0.5, 1.0)


def _network(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    return {name: value.detach().clone() for name, value in module.named_parameters()}


@pytest.fixture
def initial() -> dict[str, Tensor]:
    return _network(0)


@pytest.fixture
def trained() -> dict[str, Tensor]:
    return _network(1)


def _numbers(tensors: dict[str, Tensor]) -> dict[tuple[str, int], float]:
    return {(name, i): value for name, t in tensors.items() for i, value in enumerate(t.flatten().tolist())}


def _chosen(masks: dict[str, Tensor]) -> set[tuple[str, int]]:
    return {place for place, chosen in _numbers(masks).items() if chosen}


def test_distances_are_those_of_their_equations(initial: dict[str, Tensor], trained: dict[str, Tensor]) -> None:
    before, after = _numbers(initial), _numbers(trained)
    plain, relative = absolute_distance(initial, trained), relative_distance(initial, trained, epsilon=0.25)
    assert _numbers(plain) == {place: abs(after[place] - before[place]) for place in before}
    assert _numbers(relative) == pytest.approx(
        {place: abs(after[place] - before[place]) / (abs(before[place]) + 0.25) for place in before}, rel=1e-12
    )
    deviation = {
        layer: statistics.pstdev(value for (name, _), value in before.items() if name.startswith(f"{layer}."))
        for layer in "02"
    }
    assert _numbers(distance_in_deviations(initial, trained)) == pytest.approx(
        {place: abs(after[place] - before[place]) / deviation[place[0][0]] for place in before}, rel=1e-12
    )


@pytest.mark.parametrize("share", SHARES)
def test_active_and_lazy_are_the_ends_of_the_sorted_list(
    share: float, initial: dict[str, Tensor], trained: dict[str, Tensor]
) -> None:
    distances = absolute_distance(initial, trained)
    ordered = sorted(_numbers(distances).items(), key=lambda item: item[1])
    count = round(share * len(ordered))
    assert _chosen(least_active(distances, share)) == {place for place, _ in ordered[:count]}
    assert _chosen(most_active(distances, share)) == {place for place, _ in ordered[len(ordered) - count :]}


def test_of_equal_distances_the_first_by_name_and_place_are_taken() -> None:
    distances = {"0.weight": torch.zeros(2, 2), "2.weight": torch.zeros(4)}
    for choose in (most_active, least_active):
        assert _chosen(choose(distances, 5 / 8)) == {("0.weight", i) for i in range(4)} | {("2.weight", 0)}


def test_threshold_takes_what_lies_beyond_it() -> None:
    masks = active_beyond({"a": torch.tensor([0.1, 0.5, 0.5001])}, 0.5)
    assert masks["a"].tolist() == [False, False, True]


def test_random_sets_have_their_size_are_keyed_and_know_nothing_of_the_values(initial: dict[str, Tensor]) -> None:
    def draw(seed: int) -> set[tuple[str, int]]:
        return _chosen(random_parameters(initial, 0.5, generator=torch.Generator().manual_seed(seed)))

    assert len(draw(0)) == round(0.5 * 39) and draw(0) == draw(0) != draw(1)
    masks = most_active(initial, 0.3)
    alike = random_in_layers(masks, generator=torch.Generator().manual_seed(0))
    assert {name: int(mask.sum()) for name, mask in alike.items()} == {n: int(m.sum()) for n, m in masks.items()}
    assert _chosen(alike) != _chosen(masks)


def test_shares_sum_to_one_and_densities_are_of_the_layers() -> None:
    masks = {
        "0.weight": torch.tensor([[True, False], [True, False]]),
        "0.bias": torch.tensor([True, False]),
        "2.weight": torch.tensor([True, False, False, False]),
    }
    parts = locate_by_layer(masks)
    assert [(layer, p.num_chosen, p.num_parameters, p.share, p.density) for layer, p in parts.items()] == [
        ("0", 3, 6, 0.75, 0.5),
        ("2", 1, 4, 0.25, 0.25),
    ]
    empty = locate_by_layer({name: torch.zeros_like(mask) for name, mask in masks.items()})
    assert {(p.share, p.density) for p in empty.values()} == {(0.0, 0.0)}
    assert layer_of("stage.2.weight") == "stage.2" and layer_of("weight") == ""


@pytest.mark.parametrize("share", SHARES)
def test_reset_puts_the_set_and_nothing_else_back(
    share: float, initial: dict[str, Tensor], trained: dict[str, Tensor]
) -> None:
    masks = most_active(absolute_distance(initial, trained), share)
    kept = {name: value.clone() for name, value in trained.items()}
    back = reset_to_initial(trained | {"buffer": torch.tensor(7)}, initial, masks)
    chosen, before, after = _chosen(masks), _numbers(initial), _numbers(kept)
    assert back.pop("buffer") == 7
    assert _numbers(back) == {place: (before if place in chosen else after)[place] for place in after}
    assert all(torch.equal(trained[name], value) for name, value in kept.items()), "the caller's tensors stay"


def test_what_does_not_agree_is_refused_by_name() -> None:
    one, two = {"0.weight": torch.ones(2)}, {"0.weight": torch.ones(3)}
    with pytest.raises(ValueError, match=r"only one of them has \['2\.bias'\]"):
        absolute_distance(one, one | {"2.bias": torch.ones(1)})
    with pytest.raises(ValueError, match=r"0\.weight must be floating point of one shape .* \(2,\) .* \(3,\)"):
        absolute_distance(one, two)
    with pytest.raises(ValueError, match="Give parameters, not counters"):
        absolute_distance({"n": torch.tensor(1)}, {"n": torch.tensor(2)})
    with pytest.raises(ValueError, match=r"must differ to have a deviation, found 0\.0 in layer '0'"):
        distance_in_deviations(one, one)
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match=rf"must lie in \[0, 1\], got {share}"):
            most_active(one, share)
    with pytest.raises(ValueError, match=r"the mask of 0\.weight, \(3,\), must have its equal in the state: \(2,\)"):
        reset_to_initial(one, two, {"0.weight": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"must have its equal in the initial values: only 2\.bias"):
        reset_to_initial(one, {"2.bias": torch.ones(1)}, {"0.weight": torch.ones(2, dtype=torch.bool)})
