"""Is a forward's cost what PyTorch counts, and is nothing of the module or of other threads touched?"""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.learners.flops import forward_flops
from tests.reference import assert_bit_equal, state

MODULES: dict[str, tuple[nn.Module, Tensor]] = {
    "perceptron": (
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3, bias=False)),
        torch.randn(4, 6),
    ),
    "convolutions": (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, groups=2, stride=2),
            nn.Flatten(),
            nn.Linear(36, 3),
        ),
        torch.randn(4, 2, 8, 8),
    ),
    "norm alone": (nn.BatchNorm1d(6), torch.randn(4, 6)),
    "attention": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(4, 5, 8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_flops_of_a_sample_are_what_torch_counts_and_nothing_of_the_module_changes(name: str) -> None:
    module, x = copy.deepcopy(MODULES[name][0]), MODULES[name][1]
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(module).eval()(x.clone())
    module.train()
    next(iter(module.children()), module).eval()
    modes = [each.training for each in module.modules()]
    before, given, drawn = state(module), x.clone(), torch.get_rng_state()
    assert forward_flops(module, x) == counter.get_total_flops() // len(x)
    assert_bit_equal(state(module), before)
    assert torch.equal(x, given) and torch.equal(torch.get_rng_state(), drawn)
    assert [each.training for each in module.modules()] == modes
    assert not any(parameter.grad is not None for parameter in module.parameters())


def test_module_that_fails_is_put_back_into_its_mode() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Linear(3, 2)).train()
    with pytest.raises(RuntimeError):
        forward_flops(module, torch.randn(4, 5))
    assert module.training and all(each.training for each in module)


class _CountsBetween(nn.Module):
    """While one thread counts this forward, another one runs a layer of its own."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.others = [other]

    def forward(self, x: Tensor) -> Any:
        def run() -> None:
            other(torch.randn(7, 3)).sum().backward()
            seen.append(len(other._forward_pre_hooks) + len(other._forward_hooks))

        (other,), seen = self.others, list[int]()
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert seen == [0]
        assert not nn.modules.module._global_forward_hooks and not nn.modules.module._global_forward_pre_hooks
        return self.layer(x)


def test_modules_of_other_threads_are_neither_counted_nor_hooked() -> None:
    other = nn.Linear(3, 40)
    assert forward_flops(_CountsBetween(other), torch.randn(4, 3)) == 2 * 3 * 2
    assert other.weight.grad is not None
