"""Do the units that GradMax adds keep the function, and does no other choice give them a larger first gradient?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import Hidden, Origin, auxiliary_gradient, auxiliary_gradient_of_convolutions, gradmax_values
from tests.dni.structure.networks import changed, hidden_of, trained

TWO_MORE = Origin.append(2, num_old=4)


def _pulled(wide: nn.Module, x: Tensor, weight: Tensor) -> float:
    """The squared norm of the first gradient of the new units' incoming weights."""
    (wide(x) * weight).sum().backward()
    gradient = wide.get_parameter("0.weight").grad
    assert gradient is not None
    return float(gradient[-2:].square().sum())


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d"])
def test_gradmax_gives_new_units_the_largest_first_gradient(kind: str, generator: torch.Generator) -> None:
    first: nn.Linear | nn.Conv1d | nn.Conv2d
    second: nn.Linear | nn.Conv1d | nn.Conv2d
    if kind == "linear":
        first, second, x = nn.Linear(5, 4), nn.Linear(4, 6), torch.randn(7, 5)
    elif kind == "conv1d":
        first, second = nn.Conv1d(2, 4, 3, padding=2, dilation=2), nn.Conv1d(4, 3, 2, stride=2)
        x = torch.randn(3, 2, 8)
    else:
        first, second = nn.Conv2d(2, 4, (3, 2), stride=2), nn.Conv2d(4, 3, (2, 3), padding=1, stride=(1, 2))
        x = torch.randn(3, 2, 8, 7)
    network, x = nn.Sequential(first, nn.Identity(), nn.GELU(), second).double(), x.double()
    delta = torch.randn_like(network(x))
    if isinstance(first, nn.Linear) or isinstance(second, nn.Linear):
        auxiliary = auxiliary_gradient(x, delta)
    else:
        auxiliary = auxiliary_gradient_of_convolutions(x, delta, producer=first, consumer=second)
    hidden = Hidden.of(network, producers=["0"], consumers=["3"])
    given = gradmax_values(hidden, auxiliary, 2, activation=F.gelu, scale=0.5)
    best = changed(network, hidden, TWO_MORE, given=given)
    torch.testing.assert_close(best(x), network(x), rtol=0, atol=1e-12)
    norms = hidden.tensors["3.weight"][0].tensor.movedim(1, 0).flatten(1).norm(dim=1)
    outgoing = best.get_parameter("3.weight").detach()[:, 4:]
    new = outgoing.movedim(1, 0).flatten(1)
    torch.testing.assert_close(new @ new.T, torch.eye(2).double() * (0.5 * norms.mean()) ** 2, rtol=0, atol=1e-12)
    reached = _pulled(best, x, delta)
    singular = torch.linalg.svdvals(auxiliary)[:2]
    assert reached == pytest.approx(float((0.5 * singular * 0.5 * norms.mean()).square().sum()), rel=1e-10)
    for _ in range(20):
        drawn = torch.linalg.qr(torch.randn(new.shape[1], 2, generator=generator, dtype=torch.float64)).Q
        other = (0.5 * norms.mean() * drawn.T).view(outgoing.movedim(1, 0).shape).movedim(0, 1)
        assert _pulled(changed(network, hidden, TWO_MORE, given={**given, "3.weight": other}), x, delta) < reached


def test_gradmax_refuses_units_that_would_never_learn() -> None:
    network, x = trained("mlp")
    hidden, auxiliary = hidden_of(network), torch.ones(3, 5).double()
    with pytest.raises(ValueError, match=r"got s\(0\) = 0 and s'\(0\) = 0\. Use GELU"):
        gradmax_values(hidden, auxiliary, 1, activation=torch.relu)
    with pytest.raises(ValueError, match=r"s\(0\) = 0\.5"):
        gradmax_values(hidden, auxiliary, 1, activation=torch.sigmoid)
    with pytest.raises(ValueError, match=r"must be \(3, 5\), .* at most 3 new units; got \(3, 5\) for 4 units"):
        gradmax_values(hidden, auxiliary, 4, activation=torch.tanh)
    with pytest.raises(ValueError, match=r"got 0\.weight, 0\.bias and 3\.weight, and 1\.weight, and 1\.bias"):
        gradmax_values(hidden_of(trained("normed_mlp")[0]), auxiliary, 1, activation=torch.tanh)
    same = nn.Conv1d(2, 4, 3, padding="same")
    with pytest.raises(ValueError, match="paddings in numbers, of zeros; got padding='same'"):
        auxiliary_gradient_of_convolutions(x, x, producer=same, consumer=same)
