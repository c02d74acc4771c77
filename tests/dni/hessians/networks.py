"""Which small networks have a Hessian that can be written down, and what is it?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni.hessians.objective import Batch


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.BatchNorm2d(3),
        nn.Softplus(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(3, 3),
    ).eval()


def batches(*shape: int, sizes: Sequence[int] = (4, 3)) -> list[Batch]:
    """Inputs (N, *shape) of positive mean and labels in [0, 3)."""
    return [(torch.rand(n, *shape, dtype=torch.float64), torch.randint(3, (n,))) for n in sizes]


def full_hessian(module: nn.Module, loss: nn.Module, data: Sequence[Batch], names: Sequence[str]) -> Tensor:
    """The Hessian of the mean loss over all samples, by a second backward pass for each parameter."""
    chosen = [dict(module.named_parameters())[name] for name in names]
    x, target = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    gradient = torch.autograd.grad(loss(module(x), target), chosen, create_graph=True)
    flat = torch.cat([own.reshape(-1) for own in gradient])
    rows = [torch.autograd.grad(entry, chosen, retain_graph=True, materialize_grads=True) for entry in flat]
    return torch.stack([torch.cat([own.reshape(-1) for own in row]) for row in rows])


def full_gauss_newton(module: nn.Module, data: Sequence[Batch], names: Sequence[str]) -> Tensor:
    """The mean over samples of Jᵀ (diag π - π πᵀ) J, for the cross-entropy."""
    chosen = [dict(module.named_parameters())[name] for name in names]
    x = torch.cat([x for x, _ in data])
    total = torch.zeros(())
    for y in module(x):
        rows = [torch.autograd.grad(entry, chosen, retain_graph=True, materialize_grads=True) for entry in y]
        jacobian = torch.stack([torch.cat([own.reshape(-1) for own in row]) for row in rows])
        pi = y.detach().softmax(0)
        total = total + jacobian.T @ (pi.diag() - torch.outer(pi, pi)) @ jacobian
    return total / len(x)
