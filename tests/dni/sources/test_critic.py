"""Does a critic fit the loss of each sample, and is its gradient what it says?

Letters: N samples, F features.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import Critic, Signal, SobolevCritic, ValueMLP

SGD = partial(torch.optim.SGD, lr=0.05)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


class Quadratic(nn.Module):
    """V = ½ h A h' + h B y + c: the loss of a linear layer and a squared error has this form."""

    def __init__(self, width: int, num_context: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(width, width))
        self.b = nn.Parameter(torch.zeros(width, num_context))
        self.c = nn.Linear(num_context, 1)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        quadratic = 0.5 * torch.einsum("nf,fg,ng->n", h, self.a, h)
        return quadratic + torch.einsum("nf,fk,nk->n", h, self.b, context) + self.c(context).squeeze(1)


def _batch(num_samples: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h = torch.randn(num_samples, 4, dtype=torch.float64)
    target = torch.randint(0, 3, (num_samples,))
    return h, target, torch.rand(num_samples, dtype=torch.float64), torch.randn(num_samples, 4, dtype=torch.float64)


@pytest.mark.parametrize("sobolev", [False, True])
def test_steps_equal_the_same_regression_written_out(sobolev: bool) -> None:
    network = Quadratic(4, 3).double()
    source = (
        SobolevCritic(3, network, gradient_weight=0.5, optimizer=SGD) if sobolev else Critic(3, network, optimizer=SGD)
    )
    source.build(_batch()[0], generator=_generator())
    a, b = torch.zeros(4, 4, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
    weight, bias = network.c.weight.detach().clone(), network.c.bias.detach().clone()
    for step in range(5):
        h, target, loss, gradient = _batch()
        found = source.learn(h, Signal(step=step, target=target, loss=loss, gradient=gradient))
        y = F.one_hot(target, 3).double()
        off = 0.5 * (h @ a * h).sum(1) + (h @ b * y).sum(1) + (y @ weight.T).squeeze(1) + bias - loss
        slope = 0.5 * h @ (a + a.T) + y @ b.T - gradient
        assert found == pytest.approx((off.square().sum() + 0.5 * sobolev * slope.square().sum()).item() / 6)
        da = (off[:, None, None] * h[:, :, None] * h[:, None, :]).sum(0) / 6
        db = 2 * (off[:, None, None] * h[:, :, None] * y[:, None, :]).sum(0) / 6
        if sobolev:  # d/dA of ||½ h (A + A') - r||², times w
            da += 0.5 * (slope.T @ h + h.T @ slope) / 6
            db += 0.5 * 2 * slope.T @ y / 6
        a, b = a - 0.05 * da, b - 0.05 * db
        weight, bias = weight - 0.05 * 2 * (off @ y / 6), bias - 0.05 * 2 * off.mean()
    h, target, _, _ = _batch()
    expected = 0.5 * h @ (a + a.T) + F.one_hot(target, 3).double() @ b.T
    torch.testing.assert_close(source.estimate(h, Signal(step=5, target=target)), expected, rtol=0, atol=1e-12)


def test_new_critic_sends_exactly_zero() -> None:
    h, target, _, _ = _batch()
    source = Critic(3)
    source.build(h, generator=_generator())
    assert torch.equal(source.estimate(h, Signal(step=0, target=target)), torch.zeros_like(h))


def test_critic_of_a_loss_that_it_can_represent_finds_its_gradient_and_sobolev_sooner() -> None:
    """A linear layer above and a squared error: L = ||h W - onehot(y)||², V quadratic in h and y."""
    torch.manual_seed(0)
    layer = torch.randn(4, 3, dtype=torch.float64) / 2
    cosines = []
    slower = partial(torch.optim.SGD, lr=0.02)
    for source in (Critic(3, Quadratic(4, 3), optimizer=slower), SobolevCritic(3, Quadratic(4, 3), optimizer=slower)):
        source.build(_batch()[0], generator=_generator())
        after = []
        for step in range(400):
            h, target, _, _ = _batch(32)
            difference = h @ layer - F.one_hot(target, 3)
            true, loss = 2 * difference @ layer.T, difference.square().sum(1)
            if step in (20, 399):
                estimate = source.estimate(h, Signal(step=step, target=target))
                after.append(F.cosine_similarity(estimate.flatten(), true.flatten(), dim=0).item())
            source.learn(h, Signal(step=step, target=target, loss=loss, gradient=true))
        cosines.append(after)
    assert cosines[0][1] > 0.99 and cosines[1][1] > 0.99
    assert cosines[1][0] > cosines[0][0]


def test_what_a_critic_cannot_do_without_is_named() -> None:
    h, target, loss, _ = _batch()
    source = SobolevCritic(3)
    source.build(h, generator=_generator())
    with pytest.raises(ValueError, match="SobolevCritic needs the loss of each sample"):
        source.learn(h, Signal(step=0, target=target))
    with pytest.raises(ValueError, match="SobolevCritic needs dL/dh"):
        source.learn(h, Signal(step=0, target=target, loss=loss))
    with pytest.raises(ValueError, match="SobolevCritic needs labels"):
        source.estimate(h, Signal(step=0))


def test_network_that_returns_no_number_per_sample_is_refused() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, h: Tensor, context: Tensor) -> Tensor:
            return self.layer(h)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"a number per sample, \(6,\) or \(6, 1\), got \(6, 4\) from Wide"):
        Critic(3, Wide()).build(_batch()[0], generator=_generator())
    with pytest.raises(TypeError, match="a critic's network must be a module, or a function"):
        Critic(3, lambda h, num_context: "no module").build(_batch()[0], generator=_generator())  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("hidden", [(), (8, 0)])
def test_critic_without_hidden_units_is_refused(hidden: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a critic's hidden must be widths of at least 1"):
        ValueMLP(hidden)


def test_weight_of_the_slope_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"gradient_weight must be positive, got 0\.0\. Without it, use Critic"):
        SobolevCritic(gradient_weight=0.0)
