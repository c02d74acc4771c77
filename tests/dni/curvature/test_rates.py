"""Are the rates those of the methods they stand for?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dni import (
    ParameterPartition,
    Summary,
    cubic_rates,
    diagonal_rates,
    loss_parts,
    newton_rates,
    pseudo_inverse_rates,
    summarise,
)
from tests.dni.curvature.networks import mlp, parameters_of, random_direction, shapes_of


def _summary(hessian: list[list[float]], gradient: list[float], third: list[float] | None = None) -> Summary:
    g, h = torch.tensor(gradient, dtype=torch.float64), torch.tensor(hessian, dtype=torch.float64)
    d = torch.ones_like(g) if third is None else torch.tensor(third, dtype=torch.float64)
    return Summary(names=tuple("abcdef"[: len(g)]), gradient=g, hessian=h, third=d)


def _gradient(module: nn.Module, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    loss = nn.functional.cross_entropy(module(x), target)
    return dict(zip(parameters_of(module), torch.autograd.grad(loss, list(module.parameters())), strict=True))


def test_rate_of_one_subset_is_the_exact_step_of_a_line_search() -> None:
    module, x, target = mlp()
    u = _gradient(module, x, target)
    partition = ParameterPartition.as_one(shapes_of(module))
    summary = summarise(loss_parts(module, nn.CrossEntropyLoss(), x, target), parameters_of(module), u, partition)
    # Cauchy: g'u / u'Hu, by a backward pass through <g, u>
    loss = nn.functional.cross_entropy(module(x), target)
    g = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
    along = sum((own * u[name]).sum() for name, own in zip(u, g, strict=True))
    hu = torch.autograd.grad(along, list(module.parameters()))
    cauchy = along / sum((own * u[name]).sum() for name, own in zip(u, hu, strict=True))
    torch.testing.assert_close(newton_rates(summary), cauchy.detach()[None], rtol=1e-10, atol=0)
    torch.testing.assert_close(diagonal_rates(summary), newton_rates(summary), rtol=1e-12, atol=0)


def test_rates_of_every_number_are_newtons_step_whatever_the_direction() -> None:
    target, at = torch.tensor([1.0, -2.0, 0.5, 3.0]).double(), {"w": torch.randn(2, 2, dtype=torch.float64)}
    root = torch.randn(4, 4, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(4)

    def quadratic(own: dict[str, Tensor]) -> Tensor:
        distance = own["w"].flatten() - target
        return distance @ matrix @ distance / 2

    partition = ParameterPartition.by_number({"w": (2, 2)})
    u = {"w": torch.randn(2, 2, dtype=torch.float64)}
    summary = summarise([quadratic], at, u, partition)
    for rates in (newton_rates(summary), cubic_rates(summary), pseudo_inverse_rates(summary)):
        reached = at["w"] - partition.spread(rates)["w"] * u["w"]
        torch.testing.assert_close(reached.flatten(), target, rtol=1e-9, atol=1e-9)


RULES: dict[str, Callable[[Summary], Tensor]] = {
    "newton": newton_rates,
    "damped": partial(newton_rates, damping=0.3),
    "pseudo": pseudo_inverse_rates,
    "diagonal": diagonal_rates,
    "cubic": cubic_rates,
    "strong": partial(cubic_rates, strength=30.0),
}


@pytest.mark.parametrize("rule", RULES)
def test_step_does_not_depend_on_the_size_of_the_direction_in_each_subset(rule: str) -> None:
    module, x, target = mlp()
    partition, u = ParameterPartition.by_tensor(shapes_of(module)), random_direction(module)
    factors = 10 ** torch.linspace(-4, 4, partition.num_subsets, dtype=torch.float64)
    rescaled = {name: own * factors[at] for at, (name, own) in enumerate(u.items())}
    parts = loss_parts(module, nn.CrossEntropyLoss(), x, target)
    one, other = (summarise(parts, parameters_of(module), own, partition) for own in (u, rescaled))
    assert float(torch.linalg.eigvalsh(one.hessian)[0]) < 0, "indefinite, as at the beginning of training"
    torch.testing.assert_close(RULES[rule](other) * factors, RULES[rule](one), rtol=1e-8, atol=0)


def test_damping_adds_a_share_of_the_diagonal() -> None:
    summary = _summary([[2, 1], [1, -4]], [1, 1])
    matrix = torch.tensor([[3, 1], [1, -2]], dtype=torch.float64)
    expected = torch.linalg.solve(matrix, summary.gradient)
    torch.testing.assert_close(newton_rates(summary, damping=0.5), expected)


def test_subset_that_stands_still_is_named_or_gets_no_rate() -> None:
    summary = _summary([[2, 0, 1], [0, 0, 0], [1, 0, 4]], [1, 0, 1], [1, 0, 1])
    with pytest.raises(ValueError, match="no curvature along b, whose direction may be zero"):
        newton_rates(summary)
    with pytest.raises(ValueError, match="none along b; its direction may be zero"):
        diagonal_rates(summary)
    rates = pseudo_inverse_rates(summary)
    assert rates[1] == 0
    torch.testing.assert_close(rates[[0, 2]], newton_rates(summary.of([0, 2])))
    assert cubic_rates(summary)[1] == 0


def test_subsets_that_are_flat_together_are_named_or_share_their_rate() -> None:
    summary = _summary([[1, 1, 0], [1, 1, 0], [0, 0, 2]], [1, 1, 1])
    with pytest.raises(ValueError, match="no curvature along a, b together"):
        newton_rates(summary)
    torch.testing.assert_close(pseudo_inverse_rates(summary), torch.tensor([0.5, 0.5, 0.5]).double())


def test_settings_that_mean_nothing_are_refused() -> None:
    summary = _summary([[1]], [1])
    with pytest.raises(ValueError, match="damping must be 0 or more, got -1"):
        newton_rates(summary, damping=-1)
    with pytest.raises(ValueError, match=r"a share in \[0, 1\)"):
        pseudo_inverse_rates(summary, cutoff=1)
    with pytest.raises(ValueError, match=r"must be above 0, got 0\.0"):
        cubic_rates(summary, strength=0.0)
