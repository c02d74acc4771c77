"""Do the measures of a gradient equal their definitions, written out sample by sample?"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from dni.measures.quality import (
    agreement,
    compare_gradients,
    compare_parameter_gradients,
    grade,
    mean_pairwise_cosine,
    parameter_gradients_by_part,
    split_direction,
    split_error,
)

D = torch.float64
NAMES = ("cosine", "norm_ratio", "projection", "relative_error")


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def _stage() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def test_agreement_equals_its_definitions_over_all_tensors() -> None:
    used, true = ([torch.randn(5, 3, dtype=D), torch.randn(5, 2, dtype=D)] for _ in range(2))
    u, t = (torch.cat([member.flatten() for member in members]) for members in (used, true))
    expected = (_cosine(u, t), u.norm() / t.norm(), (u @ t) / (t @ t), (u - t).norm() / t.norm())
    found = agreement(used, true)
    assert tuple(found) == NAMES and list(found.values()) == pytest.approx([float(value) for value in expected])
    assert compare_gradients(used, true) == {f"gradient_{name}": value for name, value in found.items()}


def test_agreement_of_a_gradient_with_itself_and_of_zeros_is_what_it_should_be() -> None:
    g = [torch.randn(5, 3, dtype=D)]
    zero = [torch.zeros(5, 3, dtype=D)]
    assert list(agreement(g, g).values()) == pytest.approx([1, 1, 1, 0])
    assert list(agreement(zero, g).values()) == pytest.approx([0, 0, 0, 1])
    assert list(agreement(g, zero).values()) == [0, 0, 0, 0]
    assert agreement([-2 * g[0]], g)["projection"] == pytest.approx(-2)


def test_parameter_gradients_are_compared_as_autograd_makes_them() -> None:
    stage, x = _stage(), torch.randn(7, 4, dtype=D)
    used, true = torch.randn(7, 3, dtype=D), torch.randn(7, 3, dtype=D)
    h, parameters = stage(x), list(stage.parameters())
    twins = [torch.autograd.grad(h, parameters, g, retain_graph=True) for g in (used, true)]
    expected = agreement(*twins)
    found = compare_parameter_gradients([h], parameters, used=[used], true=[true])
    assert found == pytest.approx({f"parameter_{name}": value for name, value in expected.items()})
    assert all(parameter.grad is None for parameter in parameters)
    assert compare_parameter_gradients([h], [], used=[used], true=[true]) == {}


def test_parts_of_the_parameter_gradient_are_those_of_the_parts_of_the_samples() -> None:
    stage, x, g = _stage(), torch.randn(8, 4, dtype=D), torch.randn(8, 3, dtype=D)
    h, parameters = stage(x), [*stage.parameters(), nn.Parameter(torch.zeros(2, dtype=D))]
    rows = parameter_gradients_by_part([h], parameters, [g], num_parts=3)
    for row, samples in zip(rows, ([0, 1, 2], [3, 4, 5], [6, 7]), strict=True):
        pulled = torch.autograd.grad(stage(x[samples]), list(stage.parameters()), g[samples])
        flat = torch.cat([*(p.flatten() for p in pulled), torch.zeros(2, dtype=D)]) / len(samples)
        torch.testing.assert_close(row, flat)
    with pytest.raises(ValueError, match=r"into 1 to 8 parts .* got 9"):
        parameter_gradients_by_part([h], parameters, [g], num_parts=9)


def test_an_error_is_split_into_its_mean_and_its_variance() -> None:
    true = torch.randn(6, 2, 2, dtype=D)
    shifted = true + torch.randn(2, 2, dtype=D)
    scattered = true + torch.randn(6, 2, 2, dtype=D)
    assert split_error(shifted, true)["error_noise"] == pytest.approx(0)
    found = split_error(scattered, true)
    errors = [(scattered - true)[n] for n in range(6)]
    mean = sum(errors[1:], start=errors[0]) / 6
    scale = sum(float(true[n].square().sum()) for n in range(6)) / 6
    assert found["error_bias"] == pytest.approx(float(mean.square().sum()) / scale)
    assert found["error_noise"] == pytest.approx(sum(float((e - mean).square().sum()) for e in errors) / 6 / scale)
    assert sum(found.values()) == pytest.approx(agreement([scattered], [true])["relative_error"] ** 2)
    assert split_error(scattered, torch.zeros_like(true)) == {"error_bias": 0.0, "error_noise": 0.0}


def test_pairwise_cosine_is_the_mean_over_pairs() -> None:
    rows = torch.randn(5, 4, dtype=D)
    expected = sum(_cosine(a, b) for a, b in combinations(rows, 2)) / 10
    assert mean_pairwise_cosine(rows) == pytest.approx(expected)
    assert mean_pairwise_cosine(torch.cat([rows[:1], rows[:1], torch.zeros(1, 4, dtype=D)])) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="at least two rows, got 1"):
        mean_pairwise_cosine(rows[:1])


def test_direction_is_split_into_that_of_the_mean_and_the_scatter_about_it() -> None:
    true = torch.randn(4, 9, dtype=D)
    used = true + torch.randn(4, 9, dtype=D)
    found = split_direction(used, true)
    assert found["direction_bias"] == pytest.approx(1 - _cosine(used.mean(0), true.mean(0)))
    assert found["direction_noise"] == pytest.approx(1 - mean_pairwise_cosine(used))
    assert found["true_direction_noise"] == pytest.approx(1 - mean_pairwise_cosine(true))


def test_a_grade_holds_every_measure_and_leaves_the_graph_and_the_gradients_alone() -> None:
    stage, x = _stage(), torch.randn(7, 4, dtype=D)
    used, true, target = (torch.randn(7, 3, dtype=D) for _ in range(3))
    h, parameters = stage(x), list(stage.parameters())
    found = grade([h], parameters, used=[used], true=[true], target=[target], num_parts=3)
    assert {name: found[name] for name in NAMES} == agreement([used], [true])
    assert found["target_cosine"] == pytest.approx(_cosine(used, target))
    whole = compare_parameter_gradients([h], parameters, used=[used], true=[true])
    assert {name: found[name] for name in whole} == pytest.approx(whole)
    parts = [parameter_gradients_by_part([h], parameters, [g], num_parts=3) for g in (used, true)]
    split = {f"parameter_{name}": value for name, value in split_direction(*parts).items()}
    assert {name: found[name] for name in split} == pytest.approx(split)
    assert {"error_bias", "error_noise", "target_relative_error"} < set(found)
    assert all(parameter.grad is None for parameter in parameters)
    h.sum().backward()  # the graph is still there


def test_a_grade_of_a_perfect_source_is_perfect_and_of_a_stage_without_parameters_is_of_its_output_only() -> None:
    stage, x, g = _stage(), torch.randn(6, 4, dtype=D), [torch.randn(6, 3, dtype=D)]
    perfect = grade([stage(x)], list(stage.parameters()), used=g, true=g, target=None, num_parts=2)
    worst = ("relative_error", "error_bias", "error_noise", "parameter_relative_error", "parameter_direction_bias")
    assert [perfect[name] for name in worst] == pytest.approx([0] * 5)
    assert perfect["parameter_direction_noise"] == pytest.approx(perfect["parameter_true_direction_noise"])
    assert not any(name.startswith("target_") for name in perfect)
    bare = grade([torch.tanh(x)], [], used=[x], true=[x], target=[x], num_parts=2)
    assert not any(name.startswith("parameter_") for name in bare)
