"""Do pieces become one when their counts no longer matter, and does the parameter then go on as before?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from dni import AxisChange, Origin, TensorChange
from dni.structure.maturity import correction_gap
from tests.dni.structure.optimizers import PerElementAdam, Pieced

LR, BETAS = 0.01, (0.5, 0.8)
COUNTED: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "Adam": partial(optim.Adam, lr=LR, betas=BETAS, amsgrad=True),
    "AdamW": partial(optim.AdamW, lr=LR, betas=BETAS),
    "NAdam": partial(optim.NAdam, lr=LR, betas=BETAS, momentum_decay=5.0),
    "RAdam": partial(optim.RAdam, lr=LR, betas=BETAS),
    "Adamax": partial(optim.Adamax, lr=LR, betas=BETAS),
    "Adagrad": partial(optim.Adagrad, lr=LR, lr_decay=1.0),
    "ASGD": partial(optim.ASGD, lr=LR, lambd=100.0, alpha=1.0, t0=1e3),
    "SGD": partial(optim.SGD, lr=LR, momentum=0.9, dampening=0.5),
}
ROWS = AxisChange(axis=0, origin=Origin.append(2, num_old=3), side="producer")
COLUMNS = AxisChange(axis=1, origin=Origin.identity(2), side="producer")


def _draw(count: int, *shape: int) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for _ in range(count)]


def test_merged_pieces_stay_near_an_adam_with_a_count_per_element() -> None:
    torch.manual_seed(2)
    tolerance = 1e-3
    held = Pieced(partial(optim.Adam, lr=LR, betas=BETAS), torch.randn(3, 2, dtype=torch.float64))
    truth = PerElementAdam(held.value)

    def step() -> None:
        (gradient,) = _draw(1, *held.value.shape)
        held.step(gradient)
        truth.step(gradient, lr=LR, betas=BETAS)

    for _ in range(40):
        step()
    held.follow(held.set_value(TensorChange(axes=(ROWS,))))
    truth.follow((ROWS, COLUMNS), "keep", held.value)
    count = 0
    while not held.merge(tolerance):
        step()
        torch.testing.assert_close(held.value, truth.value, rtol=0, atol=1e-12)
        count += 1
    assert count == 31, "0.8^31 is the first power below 0.001"
    assert held.pieces[0].state["step"] == 71
    for _ in range(20):
        step()
    torch.testing.assert_close(held.value[:3], truth.value[:3], rtol=0, atol=1e-12)
    assert 0 < float((held.value - truth.value).abs().max()) < 5 * tolerance * LR


@pytest.mark.parametrize("name", COUNTED)
def test_merged_parameter_goes_on_as_its_pieces_would_have(name: str) -> None:
    held = Pieced(COUNTED[name], torch.randn(3, 2, dtype=torch.float64))
    held.step(*_draw(30, 3, 2))
    held.follow(held.set_value(TensorChange(axes=(ROWS,))))
    states = [own.state for own in held.pieces]
    assert correction_gap(held.optimizer, held.optimizer.param_groups[0], states) > 0.1
    assert not held.merge(1e-2)
    count = 0
    while True:
        held.step(*_draw(1, 5, 2))
        apart = copy.deepcopy(held)
        apart._load(held.value, held.pieces)
        if held.merge(1e-2):
            break
        count += 1
        assert count < 200
    assert torch.equal(held.value, apart.value), "nothing moves at the merge"
    for gradient in _draw(5, 5, 2):
        held.step(gradient)
        apart.step(gradient)
    assert torch.equal(held.value[:3], apart.value[:3]), "the oldest piece is merged bit for bit"
    assert float((held.value - apart.value).abs().max()) < 5 * 5 * 1e-2 * LR
