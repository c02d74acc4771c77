"""Do new units that are a piece of their own train as under an Adam that counts per element, also once merged?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from dni import AxisChange, Origin, Piece, correction_gap, may_merge, merge_pieces_, remap_parameter, split_in_pieces_
from tests.dni.structure.optimizers import OPTIMIZERS, stepped

OLD, NEW = Piece("w", ((0, 3), (0, 2))), Piece("w", ((3, 5), (0, 2)))
GROWN = AxisChange(axis=0, origin=Origin.append(2, num_old=3), side="producer")
LR, BETAS, TOLERANCE = 0.01, (0.5, 0.8), 1e-3


class _PerElementAdam:
    """Adam (Kingma & Ba 2014) with one count per element; eps 1e-8 as torch has it."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach().clone()
        self.m, self.v, self.count = (torch.zeros_like(self.value) for _ in range(3))

    def grow(self, value: Tensor) -> None:
        added = len(value) - len(self.value)
        self.value = torch.cat([self.value, value[-added:].detach()])
        zeros = torch.zeros_like(self.value[-added:])
        self.m, self.v, self.count = (torch.cat([own, zeros]) for own in (self.m, self.v, self.count))

    def step(self, gradient: Tensor) -> None:
        self.count += 1
        self.m += (1 - BETAS[0]) * (gradient - self.m)
        self.v = BETAS[1] * self.v + (1 - BETAS[1]) * gradient**2
        m, v = self.m / (1 - BETAS[0] ** self.count), self.v / (1 - BETAS[1] ** self.count)
        self.value -= LR * m / (v.sqrt() + 1e-8)


def _gradients(count: int, *shape: int) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for _ in range(count)]


def _split(
    optimizer: Callable[[list[nn.Parameter]], Optimizer], gradients: list[Tensor]
) -> tuple[Optimizer, nn.Parameter, list[nn.Parameter]]:
    """A weight (3, 2) after some steps, grown by two rows that are a piece of their own."""
    weight = nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    made = optimizer([weight])
    stepped(made, weight, gradients)
    weight = remap_parameter(weight, [GROWN], optimizer=made).parameter
    return made, weight, split_in_pieces_(made, weight, [OLD, NEW], fresh=[NEW])


def _step_pieces(optimizer: Optimizer, parameters: list[nn.Parameter], gradient: Tensor) -> None:
    for piece, parameter in zip((OLD, NEW), parameters, strict=True):
        parameter.grad = piece.of(gradient)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None


def test_pieces_are_an_adam_with_a_count_per_element_and_stay_near_it_once_merged() -> None:
    torch.manual_seed(2)
    weight, before = nn.Parameter(torch.randn(3, 2, dtype=torch.float64)), _gradients(40, 3, 2)
    optimizer, truth = optim.Adam([weight], lr=LR, betas=BETAS), _PerElementAdam(weight)
    stepped(optimizer, weight, before)
    for gradient in before:
        truth.step(gradient)
    value = torch.randn(5, 2, dtype=torch.float64)
    value[:3] = weight.detach()
    weight = remap_parameter(weight, [GROWN], optimizer=optimizer, value=value).parameter
    truth.grow(weight)
    stock, stock_optimizer = copy.deepcopy((weight, optimizer))
    parameters = split_in_pieces_(optimizer, weight, [OLD, NEW], fresh=[NEW])
    count, worst_stock = 0, 0.0
    while not may_merge(optimizer, parameters, tolerance=TOLERANCE):
        (gradient,) = _gradients(1, 5, 2)
        _step_pieces(optimizer, parameters, gradient)
        stepped(stock_optimizer, stock, [gradient])
        truth.step(gradient)
        worst_stock = max(worst_stock, float((stock.detach() - truth.value)[3:].abs().max()))
        torch.testing.assert_close(weight.detach(), truth.value, rtol=0, atol=1e-12)
        count += 1
    assert count == 31, "0.8^31 is the first power below 0.001"
    assert worst_stock > LR / 2, "one count for old and new is wrong by more than half a step"
    merge_pieces_(optimizer, weight, list(zip((OLD, NEW), parameters, strict=True)), tolerance=TOLERANCE)
    assert optimizer.param_groups[0]["params"][0] is weight and list(optimizer.state) == [weight]
    assert optimizer.state[weight]["step"] == 71
    for gradient in _gradients(20, 5, 2):
        stepped(optimizer, weight, [gradient])
        truth.step(gradient)
    torch.testing.assert_close(weight.detach()[:3], truth.value[:3], rtol=0, atol=1e-12)
    assert 0 < float((weight.detach() - truth.value).abs().max()) < 5 * TOLERANCE * LR


COUNTED: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "Adam": partial(optim.Adam, lr=LR, betas=BETAS, amsgrad=True),
    "AdamW": partial(optim.AdamW, lr=LR, betas=BETAS),
    "NAdam": partial(optim.NAdam, lr=LR, betas=BETAS, momentum_decay=5.0),
    "RAdam": partial(optim.RAdam, lr=LR, betas=BETAS),
    "Adamax": partial(optim.Adamax, lr=LR, betas=BETAS),
    "Adagrad": partial(optim.Adagrad, lr=LR, lr_decay=1.0),
    "ASGD": partial(optim.ASGD, lr=LR, lambd=100.0, alpha=1.0, t0=1e3),
    "SGD": partial(optim.SGD, lr=LR, momentum=0.9, dampening=0.5),
    "RMSprop": partial(optim.RMSprop, lr=LR, centered=True, momentum=0.5),
    "Adadelta": optim.Adadelta,
    "Rprop": partial(optim.Rprop, lr=LR),
}


@pytest.mark.parametrize("name", COUNTED)
def test_merged_weight_goes_on_as_its_pieces_would_have(name: str) -> None:
    optimizer, weight, parameters = _split(COUNTED[name], _gradients(30, 3, 2))
    _step_pieces(optimizer, parameters, _gradients(1, 5, 2)[0])
    if name in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "ASGD"):
        assert correction_gap(optimizer, parameters) > 0.1
        with pytest.raises(
            ValueError, match=r"w\[0:3,0:2\], w\[3:5,0:2\] may be merged when .* differ by at most 0\.01"
        ):
            merge_pieces_(optimizer, weight, [(OLD, parameters[0]), (NEW, parameters[1])], tolerance=1e-2)
    count = 0
    while not may_merge(optimizer, parameters, tolerance=1e-2):
        _step_pieces(optimizer, parameters, _gradients(1, 5, 2)[0])
        count += 1
        assert count < 200
    apart, apart_optimizer = nn.Parameter(weight.detach().clone()), copy.deepcopy(optimizer)
    merge_pieces_(optimizer, weight, [(OLD, parameters[0]), (NEW, parameters[1])], tolerance=1e-2)
    own = apart_optimizer.param_groups[0]["params"]  # copies, which share no memory any more
    for gradient in _gradients(5, 5, 2):
        stepped(optimizer, weight, [gradient])
        _step_pieces(apart_optimizer, own, gradient)
    apart = nn.Parameter(torch.cat([parameter.detach() for parameter in own]))
    assert torch.equal(weight[:3], apart[:3]), "the oldest piece is merged bit for bit"
    assert float((weight - apart).detach().abs().max()) < 5 * 5 * 1e-2 * LR


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "Muon"])
def test_weight_that_is_split_and_merged_at_once_takes_the_very_same_next_step(name: str) -> None:
    weight = nn.Parameter(torch.randn(5, 2, dtype=torch.float64))
    optimizer, gradients = OPTIMIZERS[name]([weight]), _gradients(3, 5, 2)
    stepped(optimizer, weight, gradients[:2])
    plain, plain_optimizer = copy.deepcopy((weight, optimizer))
    parameters = split_in_pieces_(optimizer, weight, [OLD, NEW])
    merge_pieces_(optimizer, weight, [(OLD, parameters[0]), (NEW, parameters[1])], tolerance=0)
    stepped(optimizer, weight, gradients[2:])
    stepped(plain_optimizer, plain, gradients[2:])
    assert torch.equal(weight, plain)


def test_pieces_that_do_not_make_up_the_weight_are_refused() -> None:
    def adam(**options: Any) -> tuple[Optimizer, nn.Parameter]:
        weight = nn.Parameter(torch.ones(5, 2))
        return optim.Adam([weight], **options), weight

    optimizer, weight = adam()
    with pytest.raises(ValueError, match=r"of the 10 of \(5, 2\), w\[0:3,0:2\] leave 4 out and name 0 more than once"):
        split_in_pieces_(optimizer, weight, [OLD])
    fused, strided = adam(fused=True)
    with pytest.raises(ValueError, match=r"would misread w\[0:5,0:1\], w\[0:5,1:2\] without an error"):
        split_in_pieces_(fused, strided, [Piece("w", ((0, 5), (i, i + 1))) for i in range(2)])
    old, new = split_in_pieces_(optimizer, weight, [OLD, NEW])
    with pytest.raises(ValueError, match="must share the memory of its weight"):
        merge_pieces_(optimizer, nn.Parameter(torch.ones(5, 2)), [(OLD, old), (NEW, new)])
    new.grad = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"w\[3:5,0:2\] has a gradient that waits"):
        merge_pieces_(optimizer, weight, [(OLD, old), (NEW, new)])
    new.grad = None
    with pytest.raises(ValueError, match=r"tolerance of a bias correction must lie in \[0, 1\), got 1"):
        may_merge(optimizer, [old, new], tolerance=1)
    optimizer.param_groups[0]["params"][:] = [old]
    optimizer.add_param_group({"params": [new], "lr": 0.5})
    with pytest.raises(ValueError, match=r"w\[3:5,0:2\] and w\[0:3,0:2\] are in groups with different ones"):
        merge_pieces_(optimizer, weight, [(OLD, old), (NEW, new)])
    optimizer.param_groups[1]["lr"] = optimizer.param_groups[0]["lr"]
    merge_pieces_(optimizer, weight, [(OLD, old), (NEW, new)])
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]
