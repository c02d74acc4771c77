"""Does everything that knows a stage's parameters follow a change of structure, and come back from a checkpoint?"""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import NEW, Component, Insertion, NewUnits, Origin, TensorChange
from dni.growth.gate import gate_
from pipeline.learners.body import Body
from pipeline.randomness.keyed import generator
from tests.pipeline.learners.bodies import ADAM, MOMENTUM, backward, cut, drawn, learn, make_body, network, unit_changes
from tests.reference import assert_bit_equal, state

KEPT = (0, 2, 3, 5)


def _keyed(name: str) -> torch.Generator:
    return generator(0, name, 0)


def _assert_same(found: Any, expected: Any, at: str = "") -> None:
    """Nested dictionaries and lists of tensors and numbers, to the bit."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor) and torch.equal(found, expected), at
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), at
        for name, value in expected.items():
            _assert_same(found[name], value, f"{at}/{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), at
        for index, value in enumerate(expected):
            _assert_same(found[index], value, f"{at}/{index}")
    else:
        assert found == expected, at


@pytest.mark.parametrize("optimizer", [ADAM, MOMENTUM], ids=["adam", "momentum"])
def test_body_that_is_cut_learns_on_like_a_smaller_network_that_was_set_up_by_hand(optimizer: Any) -> None:
    body, twin, smaller = make_body(network(), optimizer), network(), network(width=4)
    plain = optimizer(twin.parameters())
    learn(body, range(3))
    for step in range(3):
        _plain_step(twin, plain, step)
    body.change(unit_changes(body, Origin.keep(KEPT, num_old=6)))
    smaller.load_state_dict({name: cut(name, value, KEPT) for name, value in twin.state_dict().items()})
    again, names, held = (
        optimizer(smaller.parameters()),
        [name for name, _ in twin.named_parameters()],
        plain.state_dict(),
    )
    held["state"] = {
        place: {key: value if value is None else cut(names[place], value, KEPT) for key, value in own.items()}
        for place, own in held["state"].items()
    }
    again.load_state_dict(held)
    learn(body, range(3, 6))
    for step in range(3, 6):
        _plain_step(smaller, again, step)
    for name, value in smaller.state_dict().items():
        torch.testing.assert_close(body.module.state_dict()[name], value, rtol=1e-12, atol=1e-14)
    (changed,) = body.history
    assert changed.keys() == smaller.state_dict().keys() - {"1.num_batches_tracked", "3.bias"}


def _plain_step(module: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    (module(drawn(step)).square().sum() / 5).backward()
    optimizer.step()


def test_velocity_and_gradients_in_the_middle_of_a_window_follow_and_the_old_parameters_are_left_alone() -> None:
    body = make_body(network())
    learn(body, range(3))
    backward(body.module, 3)
    body.parts.updater.accumulate(5)
    old = {name: (parameter, parameter.detach().clone()) for name, parameter in body.module.named_parameters()}
    before = body.state_dict()
    origin = Origin(num_old=6, sources=(5, 1, 1, NEW), scale=(1.0, 0.25, 0.75, 1.0))
    body.change(unit_changes(body, origin))
    after = body.state_dict()
    sources, share = [5, 1, 1], torch.tensor([1.0, 0.25, 0.75], dtype=torch.float64)
    gradient, velocity = before["updater"]["gradients"]["4.weight"], before["velocity"]["4.weight"]
    assert torch.equal(after["updater"]["gradients"]["4.weight"][:3], gradient[sources] * share[:, None])
    assert not after["updater"]["gradients"]["4.weight"][3].any()
    assert torch.equal(
        after["updater"]["gradients"]["7.weight"][:, :3], before["updater"]["gradients"]["7.weight"][:, sources]
    )
    assert torch.equal(after["velocity"]["4.weight"][:3], velocity[sources])
    assert torch.equal(after["velocity"]["7.weight"][:, :3], before["velocity"]["7.weight"][:, sources] * share)
    assert body.parts.updater.num_samples == 5
    learn(body, range(4, 6))
    assert dict(body.module.named_parameters())["3.bias"] is old.pop("3.bias")[0], "it has no units"
    for name, (parameter, value) in old.items():
        assert torch.equal(parameter, value), "microbatches in flight are finished with it"
        assert dict(body.module.named_parameters())[name] is not parameter


def _whole_history(body: Body) -> None:
    """Cut, grown with a gate half open, pruned weight by weight, with parts attached, in the middle of a window."""
    learn(body, range(2))
    body.change(unit_changes(body, Origin.keep(KEPT, num_old=6)))
    learn(body, range(2, 4))
    body.change(unit_changes(body, Origin.append(2, num_old=4), NewUnits(alpha=1.0)))
    gate_(body.module.get_submodule("3"), (4, 5), 0.5)
    body.attach(Component(layer="7", units=3, alpha=1.0), _keyed)
    body.attach(Insertion(behind="6", units=6), _keyed)
    masks = {"4.weight": torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.5}
    body.parts.updater.hold(masks)
    learn(body, range(4, 7))
    backward(body.module, 7)
    body.parts.updater.accumulate(5)


def test_body_comes_back_from_its_state_whatever_has_become_of_it() -> None:
    body = make_body(network())
    _whole_history(body)
    assert body.parts.updater.ages and body.parts.updater.masks, "there is something to come back"
    buffer = io.BytesIO()
    torch.save(body.state_dict(), buffer)
    buffer.seek(0)
    resumed = make_body(network())
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    _assert_same(resumed.state_dict(), body.state_dict())
    for each in (body, resumed):
        learn(each, range(8, 12))
    assert {"3.unit_gate", "3.component.0.weight", "2.inserted.0.weight"} <= body.module.state_dict().keys()
    assert_bit_equal(state(resumed.module), state(body.module))
    assert torch.equal(resumed.module.eval()(drawn(0)), body.module.eval()(drawn(0)))


def test_part_that_is_attached_begins_to_learn_and_nothing_else_is_another() -> None:
    body, twin = make_body(network()), make_body(network())
    for each in (body, twin):
        learn(each, range(3))
    kept = dict(body.module.named_parameters())
    expected = body.module(drawn(9))
    assert body.attach(Component(layer="7", units=3), _keyed) == "3.component"
    assert torch.equal(body.module(drawn(9)), expected)
    assert all(dict(body.module.named_parameters())[name] is parameter for name, parameter in kept.items())
    optimizer, other = (each.state_dict()["updater"]["optimizer"] for each in (body, twin))
    assert optimizer.keys() == other.keys()
    learn(body, range(3, 5))
    assert body.state_dict()["updater"]["optimizer"]["7.component.2.weight"]["step"] == 2
    assert body.module.get_submodule("3.component.2").weight.any()  # type: ignore[union-attr]
    assert body.edits == [Component(layer="7", units=3)]


def _change_and_fail(body: Body) -> None:
    with body.restoring():
        body.attach(Component(layer="4", units=2, alpha=1.0), _keyed)
        body.attach(Insertion(behind="6", units=6), _keyed)
        gate_(body.module.get_submodule("0"), (1,), 0.25)
        body.change({"4.weight": TensorChange(value=torch.zeros(6, 4, dtype=torch.float64))})
        raise ArithmeticError("scripted")


def test_body_is_as_it_was_when_something_fails_while_it_changes() -> None:
    body, twin = make_body(network()), make_body(network())
    for each in (body, twin):
        _whole_history(each)
    parts, objects = body.parts, {id(own) for own in (*body.module.parameters(), *body.module.buffers())}
    before, num_changes, edits = body.state_dict(), len(body.history), list(body.edits)
    with pytest.raises(ArithmeticError, match="scripted"):
        _change_and_fail(body)
    assert body.parts is parts and len(body.history) == num_changes and body.edits == edits
    assert {id(own) for own in (*body.module.parameters(), *body.module.buffers())} == objects
    _assert_same(body.state_dict(), before)
    for each in (body, twin):
        learn(each, range(8, 10))
    assert_bit_equal(state(body.module), state(twin.module))


def test_what_cannot_be_attached_is_refused_and_changes_nothing() -> None:
    body = make_body(network())
    parts = body.parts
    with pytest.raises(ValueError, match="there is no layer '3' in this stage to attach a part to"):
        body.attach(Component(layer="3", units=2), _keyed)
    with pytest.raises(TypeError, match="is BatchNorm1d"), body.restoring():
        body.attach(Insertion(behind="5", units=6), _keyed)
    assert body.parts is parts and not body.edits and not body.history


def test_original_shapes_are_those_before_the_first_change() -> None:
    body = make_body(network())
    _whole_history(body)
    assert body.original["4.weight"] == (6, 4) and body.state_dict()["original"]["7.weight"] == [3, 6]
    assert "7.component.0.weight" not in body.original
