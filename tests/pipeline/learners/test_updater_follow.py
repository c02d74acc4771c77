"""What does an updater make of a change of its parameters: state, windows, blocks, masks?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    AxisChange,
    BlockCadence,
    Layer,
    Origin,
    Periodic,
    Rows,
    TensorChange,
    apply_change,
    fit_,
)
from pipeline.learners.updater import Updater
from tests.pipeline.learners.test_block_updates import backward, learn, make_updater, network

ADAM = partial(torch.optim.Adam, lr=0.01)
HALVES = (BlockCadence(Rows("0.weight", 2), Periodic(2)),)
BY_LAYER = (BlockCadence(Layer("0"), Periodic(3)), BlockCadence(Layer("1"), Periodic()))


def follow(
    module: nn.Module,
    updater: Updater,
    changes: Mapping[str, TensorChange],
    *,
    chosen: Sequence[BlockCadence] = (),
    optimizer: Any = ADAM,
) -> Updater:
    """The module takes over the new tensors, and another updater what the old one says."""
    values = {name: apply_change(module.get_parameter(name), change) for name, change in changes.items()}
    state, ages, masks = updater.followed(changes, values)
    fit_(module, values)
    made = make_updater(module, optimizer, chosen, ages=ages, masks=masks)
    made.load_state_dict(state)
    return made


def units(origin: Origin) -> dict[str, TensorChange]:
    """Those between the two layers of the network."""
    computed = TensorChange(axes=(AxisChange(axis=0, origin=origin, side="producer"),))
    read = TensorChange(axes=(AxisChange(axis=1, origin=origin, side="consumer"),))
    return {"0.weight": computed, "0.bias": computed, "1.weight": read}


def test_new_entries_have_a_step_of_their_own_as_another_parameter_would() -> None:
    """Old and new rows of a weight are two parameters of plain Adam, one of which begins later."""
    module = nn.Sequential(nn.Linear(6, 2, bias=False)).double()
    updater = make_updater(module, ADAM, ())
    old, new = (nn.Parameter(torch.zeros(rows, 6, dtype=torch.float64)) for rows in (2, 3))
    old.data.copy_(module.get_parameter("0.weight").detach())
    plain = ADAM([old])
    for step in range(9):
        if step == 4:
            value = torch.cat([old.detach(), torch.randn(3, 6, dtype=torch.float64)])
            new.data.copy_(value[2:])
            grown = AxisChange(axis=0, origin=Origin.append(3, num_old=2), side="producer")
            updater = follow(module, updater, {"0.weight": TensorChange(axes=(grown,), value=value)})
            assert [piece.box for piece in updater.ages["0.weight"]] == [((0, 2),), ((2, 5),)]
            plain.add_param_group({"params": [new]})
        gradient = torch.randn(5, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        old.grad, new.grad = gradient[:2].clone(), gradient[2:].clone() if step >= 4 else None
        plain.step()
        weight = module.get_parameter("0.weight")
        weight.grad = gradient[: len(weight)].clone()
        updater.accumulate(1)
        updater.apply(step)
        expected = torch.cat([old, new]) if step >= 4 else old
        torch.testing.assert_close(module.get_parameter("0.weight"), expected, rtol=1e-14, atol=0)


def test_value_of_a_parameter_cut_into_blocks_may_change_but_not_its_shape() -> None:
    module = network()
    updater = make_updater(module, ADAM, HALVES)
    learn(module, updater, range(4))
    backward(module, 4, 4)
    updater.accumulate(4)
    with pytest.raises(
        ValueError, match=r"0\.weight is divided into the blocks .*, and its shape cannot change\. Name"
    ):
        follow(module, updater, units(Origin.keep(range(4), num_old=8)), chosen=HALVES)
    before = updater.state_dict()
    value = torch.randn(8, 6)
    updater = follow(module, updater, {"0.weight": TensorChange(value=value)}, chosen=HALVES)
    after = updater.state_dict()
    assert torch.equal(module.get_parameter("0.weight"), value)
    assert after["optimizer"].keys() == before["optimizer"].keys() and updater.ages == {}
    for name, own in before["optimizer"].items():
        assert all(torch.equal(after["optimizer"][name][key], held) for key, held in own.items())
    assert torch.equal(after["gradients"]["0.weight"], before["gradients"]["0.weight"])
    assert (after["pace"], after["touched"]) == (before["pace"], before["touched"])
    forgotten = TensorChange(value=value, memory="zero moments")
    updater = follow(module, updater, {"0.weight": forgotten}, chosen=HALVES)
    for name, own in updater.state_dict()["optimizer"].items():
        if name.startswith("0.weight"):
            assert not own["exp_avg"].any() and own["step"] == 2
    learn(module, updater, range(5, 7))
    assert not torch.equal(module.get_parameter("0.weight"), value)


@pytest.mark.parametrize("chosen", [(), BY_LAYER], ids=["one block", "layers apart"])
def test_what_is_accumulated_in_the_middle_of_a_window_follows_and_is_applied_once(chosen: Any) -> None:
    """A naive twin that had the smaller network from the start of its window, and the same gradients of what stays."""
    kept = [0, 2, 3, 7]
    module = network(torch.float64)
    every = {} if chosen else {"rest": Periodic(3)}
    updater = make_updater(module, ADAM, chosen, **every)
    backward(module, 0, 4)
    updater.due(0)
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    updater.accumulate(4)
    if chosen:
        updater.apply_due(0)  # layer 1 learns at once, layer 0 goes on
    start = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    updater = follow(module, updater, units(Origin.keep(kept, num_old=8)), chosen=chosen)
    held = updater.state_dict()["gradients"]
    assert held.keys() == ({"0.weight", "0.bias"} if chosen else gradients.keys())
    assert torch.equal(held["0.weight"], gradients["0.weight"][kept])
    backward(module, 1, 6)
    second = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    updater.accumulate(6)
    updater.apply(1)
    twin = nn.Parameter(start["0.weight"][kept])
    twin.grad = (gradients["0.weight"][kept] + second["0.weight"] - (0 if chosen else gradients["0.weight"][kept])) / 10
    ADAM([twin]).step()
    torch.testing.assert_close(module.get_parameter("0.weight"), twin, rtol=1e-12, atol=0)


def test_masks_follow_units_that_go_and_come_and_new_weights_are_kept() -> None:
    module = network()
    updater = make_updater(module, ADAM, ())
    mask = torch.rand(8, 6, generator=torch.Generator().manual_seed(1)) < 0.4
    updater.hold({"0.weight": mask, "1.weight": mask.T})
    learn(module, updater, range(3))
    origin = Origin.keep((1, 2, 6), num_old=8).then(Origin.append(2, num_old=3))
    updater = follow(module, updater, units(origin))
    with torch.no_grad():
        module.get_parameter("0.weight")[3:] = 0.1
    expected = torch.cat([mask[[1, 2, 6]], torch.ones(2, 6, dtype=torch.bool)])
    assert torch.equal(updater.masks["0.weight"], expected) and torch.equal(updater.masks["1.weight"], expected.T)
    learn(module, updater, range(3, 6))
    for name in ("0.weight", "1.weight"):
        weight = module.get_parameter(name).detach()
        assert not weight[~updater.masks[name]].any() and weight[updater.masks[name]].all()


def test_saying_what_follows_changes_nothing() -> None:
    module, twin = network(), network()
    updater, other = make_updater(module, ADAM, ()), make_updater(twin, ADAM, ())
    for each, own in ((module, updater), (twin, other)):
        own.hold({"1.weight": torch.rand(6, 8, generator=torch.Generator().manual_seed(1)) < 0.5})
        learn(each, own, range(3))
    origin = Origin.duplicate((1, 2), num_old=8)
    values: dict[str, Tensor] = {
        name: apply_change(module.get_parameter(name), change) for name, change in units(origin).items()
    }
    updater.followed(units(origin), values)
    for each, own in ((module, updater), (twin, other)):
        learn(each, own, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), twin.parameters(), strict=True))
