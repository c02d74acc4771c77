"""Are the derivatives by subset those of the loss by all its parameters, summed?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dni import ParameterPartition, Quadrants, derivatives_along, loss_parts, summarise, summary_tensor
from tests.dni.curvature.networks import brute_force, mlp, parameters_of, random_direction, shapes_of, tiny

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("kind", ["tensor", "one", "quadrants"])
def test_summaries_are_those_of_the_full_hessian_and_third_derivative(kind: str) -> None:
    module, x, target = tiny()
    shapes, direction = shapes_of(module), random_direction(module)
    partition = {
        "tensor": ParameterPartition.by_tensor(shapes),
        "one": ParameterPartition.as_one(shapes),
        "quadrants": ParameterPartition.by_selectors(shapes, Quadrants("2.weight")),
    }[kind]
    parts, parameters = loss_parts(module, nn.CrossEntropyLoss(), x, target), parameters_of(module)
    gradient, hessian, third = brute_force(module, x, target, direction, partition)
    found = summarise(parts, parameters, direction, partition)
    torch.testing.assert_close(found.gradient, gradient, **EXACT)
    torch.testing.assert_close(found.hessian, hessian, **EXACT)
    diagonal = torch.einsum("sss->s", third)
    torch.testing.assert_close(found.third, diagonal, **EXACT)
    torch.testing.assert_close(summary_tensor(parts, parameters, direction, partition, order=3), third, **EXACT)
    along = derivatives_along(parts, parameters, direction, partition, order=3)
    torch.testing.assert_close(along, torch.stack([gradient, hessian.diagonal(), diagonal]), **EXACT)


def test_fourth_order_is_that_of_a_polynomial() -> None:
    shapes = {"a": (), "b": ()}
    partition = ParameterPartition.by_tensor(shapes)
    at = {"a": torch.tensor(2.0, dtype=torch.float64), "b": torch.tensor(3.0, dtype=torch.float64)}
    u = {"a": torch.tensor(1.0, dtype=torch.float64), "b": torch.tensor(-2.0, dtype=torch.float64)}
    full = summary_tensor([lambda own: own["a"] ** 3 * own["b"] ** 2], at, u, partition, order=4)
    assert full[0, 0, 1, 1] == 6 * 2 * 2 * 4  # 6 a 2 u_b^2
    assert full[0, 0, 0, 1] == 6 * 2 * 3 * -2
    assert full[0, 0, 0, 0] == 0
    along = derivatives_along([lambda own: own["a"] ** 5 + own["b"]], at, u, partition, order=4)
    assert along[:, 0].tolist() == [80, 160, 240, 240]
    assert along[:, 1].tolist() == [-2, 0, 0, 0]


def test_chunks_of_subsets_and_of_samples_change_nothing() -> None:
    module, x, target = mlp()
    partition, direction = ParameterPartition.by_tensor(shapes_of(module)), random_direction(module)
    loss, parameters = nn.CrossEntropyLoss(), parameters_of(module)
    whole = summarise(loss_parts(module, loss, x, target), parameters, direction, partition)
    parts = loss_parts(module, loss, x, target, samples_at_once=4)
    chunked = summarise(parts, parameters, direction, partition)
    torch.testing.assert_close(chunked.hessian, whole.hessian, **EXACT)
    torch.testing.assert_close(chunked.third, whole.third, **EXACT)
    along = derivatives_along(parts, parameters, direction, partition, order=2, subsets_at_once=1)
    torch.testing.assert_close(along[0], whole.gradient, **EXACT)


def test_summary_of_some_subsets_and_of_an_average() -> None:
    module, x, target = mlp()
    partition, direction = ParameterPartition.by_tensor(shapes_of(module)), random_direction(module)
    parts, parameters = loss_parts(module, nn.CrossEntropyLoss(), x, target), parameters_of(module)
    found = summarise(parts, parameters, direction, partition)
    some = found.of([2, 0])
    assert some.names == ("2.weight", "0.weight")
    assert some.hessian[0, 1] == found.hessian[2, 0]
    assert torch.equal(found.mixed(found, 0.5).third, found.third)


def test_derivative_that_is_not_finite_is_refused_by_subset() -> None:
    shapes = {"smooth": (), "root": ()}
    at = {name: torch.zeros((), dtype=torch.float64) for name in shapes}
    one = {name: torch.ones((), dtype=torch.float64) for name in shapes}
    with pytest.raises(ValueError, match="of first order must be finite, but are not in root"):
        summarise([lambda own: own["smooth"] + own["root"].sqrt()], at, one, ParameterPartition.by_tensor(shapes))


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(h)
        return h.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * ctx.saved_tensors[0].cos()


class _Layer(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return _Once.apply(h)  # type: ignore[no-any-return, no-untyped-call]


def test_function_that_can_be_differentiated_once_is_not_taken_for_a_straight_one() -> None:
    module = nn.Sequential(nn.Linear(3, 4), _Layer(), nn.Linear(4, 2)).double()
    x, target = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1])
    partition = ParameterPartition.by_tensor(shapes_of(module))
    parts = loss_parts(module, nn.CrossEntropyLoss(), x, target)
    with pytest.raises(ValueError, match="marked with once_differentiable"):
        summarise(parts, parameters_of(module), random_direction(module), partition)


def test_order_below_one_is_refused() -> None:
    shapes = {"a": ()}
    at = {"a": torch.zeros(())}
    for function in (summary_tensor, derivatives_along):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            function([lambda own: own["a"]], at, at, ParameterPartition.as_one(shapes), order=0)
