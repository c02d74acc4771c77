"""Which network, in stages, are landscapes tested on, and what of it must not change?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dni.landscape.network_loss import Batches

__all__ = ["batches", "loss_of", "stages", "unchanged"]


def stages() -> list[nn.Module]:
    """Two, with what has a state, and a last one; float64, as they are in training."""
    first = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3))
    return [part.double().train() for part in (first, nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 3))]


def batches(*sizes: int) -> Batches:
    return [(torch.randn(n, 4, dtype=torch.float64), torch.randint(3, (n,))) for n in sizes]


def _state(module: nn.Module) -> list[Any]:
    gradients = [parameter.grad for parameter in module.parameters()]
    return [module.state_dict(), gradients, [part.training for part in module.modules()], torch.get_rng_state()]


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Fails unless tensors, gradients, mode and generator are bit-equal after, and nobody's hook was called."""
    before, calls = copy.deepcopy(_state(module)), []
    hooks = [part.register_forward_hook(lambda *_: calls.append(1)) for part in module.modules()]
    yield
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(_state(module), before, rtol=0, atol=0)
    assert not calls


def loss_of(net: nn.Module, given: Batches) -> Tensor:
    """The mean over all samples."""
    total = sum(nn.functional.cross_entropy(net(x), target, reduction="sum") for x, target in given)
    assert isinstance(total, Tensor)
    return total / sum(len(target) for _, target in given if target is not None)
