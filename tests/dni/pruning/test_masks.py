"""Do pruned numbers stay 0 to the bit through every optimiser, and does what is regrown begin anew?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dni import HeldMasks, Rewiring, TensorRewiring
from dni.structure.forgetting import held_slots
from tests.dni.structure.test_forgetting import OPTIMIZERS, Make

DECAYING: dict[str, Make] = OPTIMIZERS | {
    "momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adamw": partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1),
    "adam": partial(torch.optim.Adam, lr=0.01, weight_decay=0.1),
}
KEPT = torch.tensor([[True, False, True], [False, False, True]])


def _parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([[-1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]]))


def _gradient(step: int) -> Tensor:
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(step))


def _is_zero_to_the_bit(values: Tensor) -> bool:
    return bool((values.view(torch.int32) == 0).all())


@pytest.mark.parametrize("name", DECAYING)
def test_masks_hold_to_the_bit_and_the_rest_learns_as_if_it_were_alone(name: str) -> None:
    """The twin has the kept numbers only, in a tensor of their own."""
    parameter = _parameter()
    optimizer = DECAYING[name]([parameter])
    parameter.grad = _gradient(100)
    optimizer.step()  # it has state of what is pruned next
    masks = HeldMasks(
        {"0.weight": parameter, "0.bias": nn.Parameter(torch.ones(2))}, {"0.weight": KEPT}, optimizer=optimizer
    )
    twin = _parameter()
    other = DECAYING[name]([twin])
    twin.grad = _gradient(100)
    other.step()
    for step in range(5):
        parameter.grad, twin.grad = _gradient(step), _gradient(step)
        masks.mask_gradients_()
        optimizer.step()
        other.step()
        assert _is_zero_to_the_bit(parameter.detach()[~KEPT]), "before hold_"
        own = {key: value for key, value, start in held_slots(optimizer, parameter) if start == 0.0}
        assert not any(value[~KEPT].any() for key, value in own.items() if key != "exp_inf")
        masks.hold_(optimizer)
        assert _is_zero_to_the_bit(parameter.detach()[~KEPT])
        assert torch.equal(parameter[KEPT], twin[KEPT])
    assert masks.densities() == {"0.weight": 0.5} and torch.equal(masks.kept["0.weight"], KEPT)


def test_hold_undoes_what_anything_else_has_moved() -> None:
    parameter = _parameter()
    optimizer = OPTIMIZERS["adam"]([parameter])
    masks = HeldMasks({"a": parameter}, {"a": KEPT}, optimizer=optimizer)
    parameter.grad = _gradient(0)
    optimizer.step()  # with the dense gradient
    assert parameter.detach()[~KEPT].any()
    masks.hold_(optimizer)
    assert parameter.grad is not None
    everything = [parameter.detach(), parameter.grad, *(value for _, value, _ in held_slots(optimizer, parameter))]
    assert len(everything) == 5 and not any(value[~KEPT].any() for value in everything)
    assert all(value[KEPT].all() for value in everything)
    parameter.grad = None
    masks.hold_(optimizer)
    assert parameter.grad is None, "what is idle stays idle"


def test_what_is_regrown_and_what_is_dropped_begins_at_0_with_new_slots() -> None:
    parameter = _parameter()
    optimizer = torch.optim.Adagrad([parameter], initial_accumulator_value=0.5)
    masks = HeldMasks({"a": parameter}, {"a": KEPT}, optimizer=optimizer)
    for step in range(3):
        parameter.grad = _gradient(step)  # dense on purpose: the slots of what is pruned are stale
        optimizer.step()
    change = TensorRewiring(dropped=torch.tensor([0]), grown=torch.tensor([4]))
    kept_slots = optimizer.state[parameter]["sum"][0, 2].clone()
    masks.rewire_(Rewiring(rule="test", step=3, tensors={"a": change}), optimizer)
    assert masks.kept["a"].tolist() == [[False, False, True], [False, True, True]]
    assert parameter.detach()[[0, 1], [0, 1]].tolist() == [0.0, 0.0] and parameter.detach()[0, 2] != 0
    total = optimizer.state[parameter]["sum"]
    assert float(total[0, 0]) == float(total[1, 1]) == 0.5 and torch.equal(total[0, 2], kept_slots)
    parameter.grad = torch.ones(2, 3)
    masks.mask_gradients_()
    assert torch.equal(parameter.grad, masks.kept["a"].float())


def test_plan_that_is_refused_leaves_everything_as_it_was() -> None:
    parameter = _parameter()
    masks = HeldMasks({"a": parameter}, {"a": KEPT})
    before = parameter.detach().clone()
    wrong = TensorRewiring(dropped=torch.tensor([1]), grown=torch.tensor([4]))
    with pytest.raises(ValueError, match=r"drops places of a .* have been dropped already"):
        masks.rewire_(Rewiring(rule="test", step=3, tensors={"a": wrong}))
    assert torch.equal(masks.kept["a"], KEPT) and torch.equal(parameter, before)


def test_masks_that_do_not_fit_are_refused_by_name() -> None:
    named = {"a": _parameter()}
    with pytest.raises(ValueError, match="a mask must be of a parameter, got one of b; there are a"):
        HeldMasks(named, {"b": KEPT})
    with pytest.raises(ValueError, match=r"the mask of a must be bool and \(2, 3\).*got torch.float32 \(2, 3\)"):
        HeldMasks(named, {"a": KEPT.float()})
    with pytest.raises(ValueError, match="must keep something of a, found nothing: a layer pruned to nothing"):
        HeldMasks(named, {"a": torch.zeros_like(KEPT)})
