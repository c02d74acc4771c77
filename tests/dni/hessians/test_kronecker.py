"""Are the factors those of the definition, and do they make up the Hessian where they must?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni import Objective, eigenpairs, gauss_newton_operator, hessian_operator, kronecker_factors
from tests.dni.hessians.networks import batches, convolutional, perceptron


def _twin(net: nn.Sequential, at: int, x: Tensor, *, places: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """E[M] and E[x xᵀ], one sample at a time, M by the Jacobian of all that is above the layer."""
    output, input_ = [], []
    for sample in x:
        inner = net[:at](sample[None])
        z = net[at](inner)
        jacobian = torch.autograd.functional.jacobian(lambda z: net[at + 1 :](z)[0], z)
        j = jacobian.reshape(jacobian.shape[0], z.shape[1], -1)  # (C, m, T)
        pi = net[at + 1 :](z)[0].softmax(0)
        a = pi.diag() - torch.outer(pi, pi)
        output.append(torch.einsum("cd,cmt,dlt->ml", a, j, j) / j.shape[2])
        columns = places(inner)[0]
        input_.append(columns @ columns.T)
    return torch.stack(output).mean(0).detach(), torch.stack(input_).mean(0).detach()


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_factors_of_a_linear_layer_are_those_of_the_definition(layer: int) -> None:
    net, data = perceptron().double(), batches(5)
    found = kronecker_factors(Objective(net, nn.CrossEntropyLoss(), data, parameters=["0"]), str(layer))
    x = torch.cat([x for x, _ in data if isinstance(x, Tensor)])
    plain = nn.Sequential(*[nn.ReLU() if isinstance(own, nn.ReLU) else own for own in net])
    output, input_ = _twin(plain, layer, x, places=lambda inner: inner[:, :, None])
    torch.testing.assert_close(found.output, output, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found.input, input_, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found.mean_input, plain[:layer](x).mean(0).detach(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(2, 3, (2, 3), dilation=(2, 1), padding="same", padding_mode="reflect"),
    ],
)
def test_factors_of_a_convolution_are_a_sum_and_a_mean_over_places(layer: nn.Conv2d) -> None:
    net, data = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)), batches(2, 4, 4)
    net(torch.zeros(1, 2, 4, 4))
    net.double()
    found = kronecker_factors(Objective(net, nn.CrossEntropyLoss(), data), "0")
    x = torch.cat([x for x, _ in data if isinstance(x, Tensor)])

    def places(inner: Tensor) -> Tensor:
        """By the layer itself: what it makes of one weight after the other that is 1."""
        weights = torch.eye(layer.weight[0].numel(), dtype=torch.float64).reshape(-1, *layer.weight.shape[1:])
        spare = nn.Conv2d(2, len(weights), layer.kernel_size, layer.stride, layer.padding, layer.dilation, 1, False)
        spare.padding_mode, spare._reversed_padding_repeated_twice = (
            layer.padding_mode,
            layer._reversed_padding_repeated_twice,
        )
        spare.weight.data = weights
        return spare(inner).flatten(2)

    output, input_ = _twin(net, 0, x, places=places)
    torch.testing.assert_close(found.output, output, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(found.input, input_, rtol=1e-10, atol=1e-14)


def test_a_convolution_of_one_place_or_along_one_axis_is_the_linear_layer_that_it_is() -> None:
    data = batches(2, 4, sizes=[5])
    net = nn.Sequential(nn.Conv1d(2, 3, 4), nn.Flatten(), nn.ReLU(), nn.Linear(3, 3)).double()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    flat[1].weight.data, flat[1].bias.data = net[0].weight.data.reshape(3, 8), net[0].bias.data
    flat[3].load_state_dict(net[3].state_dict())
    one = kronecker_factors(Objective(net, nn.CrossEntropyLoss(), data), "0")
    other = kronecker_factors(Objective(flat, nn.CrossEntropyLoss(), data), "1")
    torch.testing.assert_close(one.output, other.output)
    torch.testing.assert_close(one.input, other.input)


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_the_product_is_the_hessian_itself_where_the_loss_bends_alike_everywhere(over: str) -> None:
    x, target = torch.rand(6, 4, dtype=torch.float64), torch.rand(6, 2, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    objective = Objective(
        net,
        nn.MSELoss(reduction="sum"),
        [(x, target)],
        parameters=["0.weight"],
        over=over,  # type: ignore[arg-type]
    )
    factors, hessian = kronecker_factors(objective, "0"), hessian_operator(objective).dense()
    expected = torch.kron(2 * net[1].weight.T @ net[1].weight, x.T @ x / 6).detach() * (6 if over == "sum" else 1)
    torch.testing.assert_close(factors.operator().dense(), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(hessian, expected, rtol=1e-10, atol=1e-12)
    found = factors.eigenpairs(4)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(hessian).flip(0)[:4], rtol=0, atol=1e-10)
    assert found.residuals.max() < 1e-12


def test_eigenvectors_of_a_product_each_correspond_to_one_pair_and_those_of_any_hessian_add_up(
    generator: torch.Generator,
) -> None:
    objective = Objective(perceptron(), nn.CrossEntropyLoss(), batches(5), parameters=["0.weight"])
    factors = kronecker_factors(objective, "0")
    shares = factors.correspondence(factors.eigenpairs(3).vectors)
    assert shares.shape == (3, 4, 5)
    torch.testing.assert_close(shares.flatten(1).amax(1), torch.ones(3, dtype=torch.float64))
    assert float(shares[0, 0, 0]) == pytest.approx(1.0)
    found = eigenpairs(gauss_newton_operator(objective), 3, generator=generator)
    torch.testing.assert_close(factors.correspondence(found.vectors).sum((1, 2)), torch.ones(3, dtype=torch.float64))


def test_a_layer_without_two_factors_is_refused() -> None:
    net, data = convolutional(), batches(2, 4, 4)
    objective = Objective(net, nn.CrossEntropyLoss(), data)
    with pytest.raises(ValueError, match="there is no layer '9' in the module; it has 0, 1, 2"):
        kronecker_factors(objective, "9")
    with pytest.raises(TypeError, match="'1' must be a Linear, or a Conv1d or Conv2d of one group"):
        kronecker_factors(objective, "1")
    shared = nn.Linear(5, 5)
    twice = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"must be called once in a forward .* it is called 2 times"):
        kronecker_factors(Objective(twice, nn.CrossEntropyLoss(), batches(5), parameters=["3"]), "0")
    factors = kronecker_factors(objective, "6")
    with pytest.raises(ValueError, match="k must be from 1 to the 9 entries of the weight, got 10"):
        factors.eigenpairs(10)
    with pytest.raises(ValueError, match=r"the P = 9 entries of the weight \(3, 3\), got \(12, 2\)"):
        factors.correspondence(torch.zeros(12, 2))
