"""Are products with a Hessian those of the matrix written down?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dni import Objective, gauss_newton_operator, hessian_operator
from tests.dni.hessians.networks import batches, convolutional, full_gauss_newton, full_hessian, perceptron

CHOICES = [
    (perceptron, (5,), ["2"], ["2.weight", "2.bias"]),
    (perceptron, (5,), ["0.weight"], ["0.weight"]),
    (perceptron, (5,), ["4.bias", "0.weight"], ["4.bias", "0.weight"]),
    (convolutional, (2, 4, 4), None, ["0.weight", "0.bias", "1.weight", "1.bias", "6.weight", "6.bias"]),
]


@pytest.mark.parametrize(("make", "shape", "chosen", "names"), CHOICES)
def test_products_are_those_of_the_full_matrices(
    make: Callable[[], nn.Module], shape: tuple[int, ...], chosen: list[str] | None, names: list[str]
) -> None:
    net, data = make().double(), batches(*shape)
    objective = Objective(net, nn.CrossEntropyLoss(), data, parameters=chosen)
    assert list(objective.shapes) == names
    expected = full_hessian(net, nn.CrossEntropyLoss(), data, names)
    assert float((hessian_operator(objective).dense() - expected).abs().max()) < 1e-10 * float(expected.abs().max())
    expected = full_gauss_newton(net, data, names)
    assert float((gauss_newton_operator(objective).dense() - expected).abs().max()) < 1e-10 * float(
        expected.abs().max()
    )


def test_attention_has_products_where_its_plain_kernel_is_asked_for() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.layer(x).mean(1))
            return y

    net, data = Encoder().double().eval(), batches(3, 4)
    objective, names = Objective(net, nn.CrossEntropyLoss(), data, parameters=["layer.linear1"]), ["layer.linear1.bias"]
    with sdpa_kernel(SDPBackend.MATH):
        hessian, gauss_newton = (make(objective).dense() for make in (hessian_operator, gauss_newton_operator))
        expected = full_hessian(net, nn.CrossEntropyLoss(), data, names)
        torch.testing.assert_close(hessian[-6:, -6:], expected, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(gauss_newton[-6:, -6:], full_gauss_newton(net, data, names), rtol=1e-10, atol=1e-14)
    whole = hessian_operator(Objective(net, nn.CrossEntropyLoss(), data, parameters=["layer.self_attn"]))
    with pytest.raises(TypeError, match=r"needs a forward-mode derivative, and one has none.*sdpa_kernel"):
        whole(torch.zeros(80))


def test_a_scipy_operator_takes_vectors_and_matrices_and_float32_stays_near() -> None:
    net, data = perceptron(), batches(5)
    objective = Objective(net, nn.CrossEntropyLoss(), data, parameters=["0"])
    matrix, operator = hessian_operator(objective).dense().numpy(), hessian_operator(objective).to_scipy()
    block = np.asfortranarray(np.random.default_rng(0).normal(size=(24, 3)))
    np.testing.assert_allclose(operator @ block, matrix @ block, atol=1e-14)
    np.testing.assert_allclose(operator.T @ block[:, 0], matrix @ block[:, 0], atol=1e-14)
    single = hessian_operator(
        Objective(net, nn.CrossEntropyLoss(), data, parameters=["0"], dtype=torch.float32)
    ).to_scipy()
    assert single.dtype == np.float32
    np.testing.assert_allclose(single @ block[:, 0], matrix @ block[:, 0], atol=1e-5)


def test_hessian_of_half_a_squared_error_is_the_second_moment_of_the_inputs_for_each_output() -> None:
    x, target = torch.rand(6, 4, dtype=torch.float64), torch.rand(6, 3, dtype=torch.float64)
    net = nn.Linear(4, 3)
    objective = Objective(net, lambda y, t: (y - t).square().sum(1) / 2, [(x, target)], parameters=["weight"])
    expected = torch.kron(torch.eye(3, dtype=torch.float64), x.T @ x / 6)
    torch.testing.assert_close(hessian_operator(objective).dense(), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(gauss_newton_operator(objective).dense(), expected, rtol=0, atol=1e-14)


def test_hessian_of_a_softmax_regression_is_that_of_the_formula() -> None:
    (x, target) = batches(4, sizes=[6])[0]
    assert isinstance(x, Tensor)
    net = nn.Linear(4, 3).double()
    pi = net(x).detach().softmax(1)
    curvature = torch.diag_embed(pi) - pi[:, :, None] * pi[:, None, :]
    expected = torch.einsum("nab,ni,nj->aibj", curvature, x, x).reshape(12, 12) / 6
    objective = Objective(net, nn.CrossEntropyLoss(), [(x, target)], parameters=["weight"])
    torch.testing.assert_close(hessian_operator(objective).dense(), expected, rtol=0, atol=1e-14)


def test_an_operation_without_a_forward_derivative_is_refused_with_what_torch_says_of_it() -> None:
    class Odd(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.exp()

        @staticmethod
        def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: object, output: object) -> None:
            pass

        @staticmethod
        def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
            return gradient

    objective = Objective(nn.Linear(5, 3), lambda y, target: Odd.apply(y).sum(1), batches(5))
    with pytest.raises(TypeError, match="needs a forward-mode derivative, and one has none"):
        hessian_operator(objective)(torch.zeros(18))
