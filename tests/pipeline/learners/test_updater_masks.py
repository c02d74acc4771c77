"""Do pruned numbers stay 0 to the bit through every optimiser, and does what is regrown begin anew?"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import SET, BlockCadence, Periodic, RigL, Rows, SparseTraining, kept_after
from dni.structure.forgetting import held_slots
from pipeline.learners.updater import Updater
from pipeline.randomness.keyed import generator
from tests.dni.structure.test_forgetting import OPTIMIZERS, Make
from tests.pipeline.learners.test_block_updates import make_updater

DECAYING: dict[str, Make] = OPTIMIZERS | {
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
}
KEPT = torch.tensor([[True, False, True], [False, False, True]])
HALVES = (BlockCadence(Rows("weight", 2), Periodic()),)


def _layer() -> nn.Linear:
    layer = nn.Linear(3, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[-1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]]))
    return layer


def _updates(layer: nn.Linear, updater: Updater, *steps: int) -> None:
    for step in steps:
        layer.weight.grad = torch.randn(2, 3, generator=torch.Generator().manual_seed(step))
        updater.accumulate(1)
        updater.apply(step)


def _slots(updater: Updater, layer: nn.Linear) -> dict[str, Tensor]:
    """What the optimiser remembers of the weight as a whole and begins with 0."""
    assert updater._optimizer is not None
    return {key: value for key, value, start in held_slots(updater._optimizer, layer.weight) if start == 0.0}


def _is_zero_to_the_bit(values: Tensor) -> bool:
    return bool((values.view(torch.int32) == 0).all())


@pytest.mark.parametrize("blocks", [(), HALVES], ids=["whole", "rows apart"])
@pytest.mark.parametrize("name", DECAYING)
def test_masks_hold_to_the_bit_and_the_rest_learns_as_if_it_were_alone(name: str, blocks: Any) -> None:
    layer, twin = _layer(), _layer()
    updater, other = make_updater(layer, DECAYING[name], blocks), make_updater(twin, DECAYING[name], ())
    for each, own in ((layer, updater), (twin, other)):
        _updates(each, own, 100)  # it has state of what is pruned next
    updater.hold({"weight": KEPT})
    for step in range(5):
        _updates(layer, updater, step)
        _updates(twin, other, step)
        assert _is_zero_to_the_bit(layer.weight.detach()[~KEPT])
        remembered = {} if blocks else _slots(updater, layer)
        assert not any(value[~KEPT].any() for key, value in remembered.items() if key != "exp_inf")
        assert torch.equal(layer.weight[KEPT], twin.weight[KEPT])
    assert torch.equal(updater.masks["weight"], KEPT)


def test_what_is_dropped_and_what_is_regrown_begins_at_0_with_new_slots_and_lifted_masks_hold_nothing() -> None:
    layer = _layer()
    updater = make_updater(layer, partial(torch.optim.Adagrad, lr=0.1, initial_accumulator_value=0.5), ())
    _updates(layer, updater, 0, 1)
    updater.hold({"weight": KEPT})
    _updates(layer, updater, 2)
    assert updater._optimizer is not None
    total = updater._optimizer.state[layer.weight]["sum"]
    before, weights = total.clone(), layer.weight.detach().clone()
    after = torch.tensor([[False, False, True], [False, True, True]])
    updater.hold({"weight": after})
    changed = after ^ KEPT
    assert not layer.weight.detach()[changed].any() and (total[changed] == 0.5).all()
    assert torch.equal(total[~changed], before[~changed]) and torch.equal(layer.weight[~changed], weights[~changed])
    _updates(layer, updater, 3)
    assert torch.equal(layer.weight != 0, after)
    updater.hold({})
    assert torch.equal(layer.weight != 0, after), "it learns again, from 0"
    _updates(layer, updater, 4)
    assert layer.weight.detach().all() and updater.masks == {}


@pytest.mark.parametrize("rule", [SET(), RigL(until=100)], ids=["SET", "RigL"])
def test_density_and_zeros_hold_while_a_network_learns_and_rewires(rule: SparseTraining) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 8)
    x, y = torch.randn(32, 12), torch.randn(32, 8)
    updater = make_updater(layer, partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1), ())
    updater.hold({"weight": torch.rand(8, 12) < 0.25})
    dense: dict[str, Tensor] = {}
    updater.on_gradients = lambda step, gradients: dense.update({"weight": gradients["weight"].clone()})
    density, seen, losses = int(updater.masks["weight"].sum()), updater.masks["weight"], list[float]()
    for step in range(40):
        loss = (layer(x) - y).square().sum()
        losses.append(float(loss.detach()))
        loss.backward()
        updater.accumulate(len(x))
        updater.apply(step)
        if step % 10 == 5:
            weight = layer.weight.detach().requires_grad_()
            weight.grad = dense["weight"]
            plan = rule.plan({"weight": weight}, updater.masks, step=step, keyed=partial(generator, 0, step=step))
            updater.hold(kept_after(plan, updater.masks))
            grown = plan.tensors["weight"].grown
            assert grown.numel() and not layer.weight.detach().flatten()[grown].any()
            assert not _slots(updater, layer)["exp_avg"].flatten()[grown].any()
        mask = updater.masks["weight"]
        assert not layer.weight.detach()[~mask].any() and int(mask.sum()) == density
        seen = seen | mask
    assert int(seen.sum()) > density and losses[-1] < losses[0]


def test_masks_that_do_not_fit_are_refused_by_name_and_change_nothing() -> None:
    layer = _layer()
    updater = make_updater(layer, OPTIMIZERS["adam"], ())
    before = layer.weight.detach().clone()
    for masks, message in (
        ({"b": KEPT}, r"the mask of b, \(2, 3\), must have a parameter of its shape: none"),
        ({"weight": KEPT.T}, r"the mask of weight, \(3, 2\), must have a parameter of its shape: \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            updater.hold(masks)
    assert torch.equal(layer.weight, before) and updater.masks == {}
