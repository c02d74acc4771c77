"""Which optimisers do the tests of changing structure try? Their eps is 0 in effect: it would tell copies apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn, optim
from torch.optim import Optimizer

__all__ = ["OPTIMIZERS", "stepped"]

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": partial(optim.SGD, lr=0.1),
    "momentum": partial(optim.SGD, lr=0.1, momentum=0.9, dampening=0.1),
    "Adam": partial(optim.Adam, lr=0.1, eps=1e-30),
    "amsgrad": partial(optim.Adam, lr=0.1, eps=1e-30, amsgrad=True),
    "AdamW": partial(optim.AdamW, lr=0.1, eps=1e-30),
    "NAdam": partial(optim.NAdam, lr=0.1, eps=1e-30),
    "RAdam": partial(optim.RAdam, lr=0.1, eps=1e-30),
    "Adamax": partial(optim.Adamax, lr=0.1, eps=1e-30),
    "Adagrad": partial(optim.Adagrad, lr=0.1, eps=1e-30, initial_accumulator_value=0.1),
    "RMSprop": partial(optim.RMSprop, lr=0.1, eps=1e-30, momentum=0.9, centered=True),
    "Adadelta": partial(optim.Adadelta, lr=0.1, eps=1e-30),
    "ASGD": partial(optim.ASGD, lr=0.1),
    "Rprop": partial(optim.Rprop, lr=0.1),
    "Muon": partial(optim.Muon, lr=0.1),
}


def stepped(optimizer: Optimizer, parameter: nn.Parameter, gradients: list[Tensor]) -> None:
    """One step for each gradient."""
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        parameter.grad = None
