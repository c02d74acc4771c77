"""Small networks in float64, and their derivatives by brute force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dni import ParameterPartition


class Flops(TorchDispatchMode):
    """Counts multiplications of matrices. (torch's FlopCounterMode does not bear `autograd.grad` by activations.)"""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def mlp() -> tuple[nn.Sequential, Tensor, Tensor]:
    """33 parameters; samples (6, 3), labels (6,)."""
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.SiLU(), nn.Linear(2, 2)).double()
    return module, torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,))


def tiny() -> tuple[nn.Sequential, Tensor, Tensor]:
    """12 parameters, whose 1728 third derivatives are soon found; samples (4, 2), labels (4,)."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.SiLU()).double()
    return module, torch.randn(4, 2, dtype=torch.float64), torch.randint(2, (4,))


def convolutional() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Stages within stages, with every kind of step between; samples (4, 1, 6, 6)."""
    lower = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ELU(), nn.MaxPool2d(2), nn.Dropout())
    upper = nn.Sequential(nn.Conv2d(2, 3, 2, bias=False), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Sigmoid())
    module = nn.Sequential(lower, upper, nn.Linear(3, 4), nn.Softplus(), nn.Identity(), nn.Linear(4, 3)).double()
    return module.eval(), torch.randn(4, 1, 6, 6, dtype=torch.float64), torch.randint(3, (4,))


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters())


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(own.shape) for name, own in module.named_parameters()}


def random_direction(module: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn_like(own).detach() for name, own in module.named_parameters()}


def brute_force(
    module: nn.Module, x: Tensor, target: Tensor, direction: Mapping[str, Tensor], partition: ParameterPartition
) -> list[Tensor]:
    """All derivatives with respect to all P numbers, by one backward pass each; then summed over the subsets."""
    shapes = shapes_of(module)
    flat = torch.cat([own.detach().flatten() for own in module.parameters()]).requires_grad_()

    def named(vector: Tensor) -> dict[str, Tensor]:
        sizes = [torch.Size(shape).numel() for shape in shapes.values()]
        return {name: part.view(shapes[name]) for name, part in zip(shapes, vector.split(sizes), strict=True)}

    loss = nn.functional.cross_entropy(functional_call(module, named(flat), (x,)), target)
    (g,) = torch.autograd.grad(loss, flat, create_graph=True)
    h = torch.stack([torch.autograd.grad(own, flat, create_graph=True)[0] for own in g])
    d = torch.stack([torch.autograd.grad(own, flat, retain_graph=True)[0] for own in h.flatten()]).view(*h.shape, -1)
    u = torch.cat([direction[name].flatten() for name in shapes])
    index = {name: torch.zeros(shape, dtype=torch.long) for name, shape in shapes.items()}
    for at, block in enumerate(partition.blocks):
        for piece in block.pieces:
            piece.of(index[piece.parameter]).fill_(at)
    place = torch.cat([index[name].flatten() for name in shapes])
    ones = nn.functional.one_hot(place, partition.num_subsets).double() * u[:, None]  # U I_{P:S}
    return [
        ones.T @ g.detach(),
        ones.T @ h.detach() @ ones,
        torch.einsum("pqr,ps,qt,rv->stv", d, ones, ones, ones),
    ]
