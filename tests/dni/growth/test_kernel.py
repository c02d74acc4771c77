"""Does a larger kernel put out the same?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dni import Origin, fit_, narrow_kernel, widen_kernel

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(2, 3, 4), (2, 2, 9)),
    "strided": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=(0, 1)), (2, 2, 9, 8)),
    "dilated": (lambda: nn.Conv2d(2, 3, (3, 1), dilation=(2, 3), padding=1), (2, 2, 9, 8)),
    "grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2, padding="same"), (2, 4, 7, 7)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 2, 7, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_wider_kernel_puts_out_the_same_and_narrows_back_to_the_bit(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    before, weight, padding = layer(x).detach(), layer.weight.detach().clone(), layer.padding
    wide = widen_kernel(layer.weight, padding=layer.padding, dilation=layer.dilation)
    assert wide.kernel_size == tuple(size + 2 for size in weight.shape[2:])
    fit_(layer, {"weight": wide.weight})
    assert torch.equal(layer.weight, wide.weight)
    assert (layer.padding, layer.kernel_size) == (wide.padding, wide.kernel_size)
    torch.testing.assert_close(layer(x).detach(), before, rtol=0, atol=1e-12)
    narrow = narrow_kernel(layer.weight, padding=layer.padding, dilation=layer.dilation)
    fit_(layer, {"weight": narrow.weight})
    assert torch.equal(layer.weight, weight) and layer.padding == padding
    assert torch.equal(layer(x), before)


def test_kernels_that_cannot_lose_a_ring_are_refused() -> None:
    weight = torch.ones(2, 2, 3, 2)
    with pytest.raises(ValueError, match=r"at least 3 wide to lose a ring, got \(3, 2\)"):
        narrow_kernel(weight, padding=(1, 1))
    with pytest.raises(ValueError, match=r"its padding would be \(-1,\)\. Only as much can be cut as was padded"):
        narrow_kernel(torch.ones(2, 2, 3), padding=(1,), dilation=(2,))
    with pytest.raises(ValueError, match=r"is \(O, I / groups, \*kernel\), got \(2, 2\)"):
        widen_kernel(torch.ones(2, 2), padding=(1,))
    with pytest.raises(ValueError, match="as many paddings and dilations"):
        widen_kernel(weight, padding=(1,))
    assert widen_kernel(weight, padding="valid").padding == (1, 1)
    assert widen_kernel(weight, padding=(0, 0)).changes[1].origin == Origin.insert([0, 3], num_old=2)
