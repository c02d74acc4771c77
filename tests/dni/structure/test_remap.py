"""Does everything that follows a parameter follow it, under every optimiser?

The truth is an optimiser that has had the new shape from the start and has seen the gradients that copies see.
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from dni import AxisChange, Follower, Origin, Remapped, check_untied, map_tensor, remap_parameter, replace_parameter_
from tests.dni.structure.optimizers import OPTIMIZERS, stepped

SHAPE = (3, 4)
CHANGES = (
    AxisChange(axis=0, origin=Origin.duplicate([1, 1, 2], num_old=3), side="producer"),
    AxisChange(axis=-1, origin=Origin.append(2, num_old=4).then(Origin.duplicate([0], num_old=6)), side="consumer"),
)
GROWN = (
    AxisChange(axis=0, origin=Origin.append(2, num_old=3), side="producer"),
    AxisChange(axis=1, origin=Origin.insert([0, 3], num_old=4), side="consumer"),
)
NARROWED = (
    AxisChange(axis=0, origin=Origin.keep(range(3), num_old=5), side="producer"),
    AxisChange(axis=1, origin=Origin.keep([1, 2, 4, 5], num_old=6), side="consumer"),
)


def _parameter() -> nn.Parameter:
    return nn.Parameter(torch.randn(SHAPE, dtype=torch.float64))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_that_of_an_optimiser_that_had_the_new_shape_from_the_start(name: str) -> None:
    gradients = [torch.randn(SHAPE, dtype=torch.float64) for _ in range(3)]
    first, old, last = _parameter(), _parameter(), _parameter()
    twin = nn.Parameter(map_tensor(old, CHANGES, "value"))
    optimizer = OPTIMIZERS[name]([{"params": [first, old]}, {"params": [last]}])
    truth = OPTIMIZERS[name]([twin])
    stepped(optimizer, old, gradients)
    stepped(truth, twin, [map_tensor(gradient, CHANGES, "gradient") for gradient in gradients])
    new = remap_parameter(old, CHANGES, optimizer=optimizer).parameter
    assert optimizer.param_groups[0]["params"][1] is new and new.shape == (6, 7)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1] and old not in optimizer.state
    state, expected = optimizer.state.get(new, {}), truth.state.get(twin, {})
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        if key == "ax":
            assert torch.equal(state[key], new), "while it averages nothing, the average is the value"
        elif value is not None:
            torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-25)
    stepped(optimizer, new, [torch.randn(6, 7, dtype=torch.float64)])
    assert new.isfinite().all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_widened_then_narrowed_parameter_takes_the_very_same_next_steps(name: str) -> None:
    parameter, gradients = _parameter(), [torch.randn(SHAPE, dtype=torch.float64) for _ in range(5)]
    parameter = nn.Parameter(parameter.detach().float())
    gradients = [gradient.float() for gradient in gradients]
    optimizer = OPTIMIZERS[name]([parameter], weight_decay=0.01) if name != "Rprop" else OPTIMIZERS[name]([parameter])
    stepped(optimizer, parameter, gradients[:3])
    plain, plain_optimizer = copy.deepcopy((parameter, optimizer))
    for changes in (GROWN, NARROWED):
        parameter = remap_parameter(parameter, changes, optimizer=optimizer).parameter
    stepped(optimizer, parameter, gradients[3:])
    stepped(plain_optimizer, plain, gradients[3:])
    assert torch.equal(parameter, plain)


@pytest.mark.parametrize("name", ["SGD", "momentum", "Adam", "AdamW"])
def test_kept_entries_of_a_grown_parameter_take_the_very_same_next_step(name: str) -> None:
    parameter = _parameter()
    optimizer = OPTIMIZERS[name]([parameter])
    stepped(optimizer, parameter, [torch.randn(SHAPE, dtype=torch.float64) for _ in range(3)])
    plain, plain_optimizer = copy.deepcopy((parameter, optimizer))
    grown = remap_parameter(parameter, GROWN, optimizer=optimizer).parameter
    gradient = torch.randn(5, 6, dtype=torch.float64)
    stepped(optimizer, grown, [gradient])
    stepped(plain_optimizer, plain, [map_tensor(gradient, NARROWED, "gradient")])
    assert torch.equal(map_tensor(grown, NARROWED, "value"), plain)


def test_gradient_sums_masks_and_averages_follow() -> None:
    parameter = _parameter()
    parameter.grad = torch.randn(SHAPE, dtype=torch.float64)
    mask, average = parameter > 0, torch.randn(SHAPE, dtype=torch.float64)
    value = torch.randn(6, 7, dtype=torch.float64)
    remapped = remap_parameter(
        parameter,
        CHANGES,
        value=value,
        followers={
            "sum": Follower(tensor=parameter.grad, kind="gradient"),
            "mask": Follower(tensor=mask, kind="mask"),
            "ema": Follower(tensor=average, kind="average"),
        },
    )
    assert torch.equal(remapped.parameter, value) and remapped.parameter.grad is not None
    rows, columns = CHANGES[0].origin, CHANGES[1].origin
    for i, row in enumerate(rows.sources):
        for j, column in enumerate(columns.sources):
            isnew = column == -1
            gradient = 0 if isnew else rows.scale[i] * parameter.grad[row, column]
            assert remapped.parameter.grad[i, j] == gradient == remapped.followers["sum"][i, j]
            assert remapped.followers["mask"][i, j] == (isnew or mask[row, column])
            assert remapped.followers["ema"][i, j] == (
                value[i, j] if isnew else columns.scale[j] * average[row, column]
            )
    assert remapped.followers["mask"].dtype == torch.bool


def test_nothing_keeps_the_old_parameter_alive() -> None:
    network = nn.Sequential(nn.Linear(4, 3, bias=False))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    old = weakref.ref(network[0].weight)
    new = remap_parameter(network[0].weight, GROWN, optimizer=optimizer).parameter
    replace_parameter_(network, "0.weight", new)
    gc.collect()
    assert old() is None and network[0].weight is new and list(optimizer.state) == [new]


class _Strange(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["fisher"] = torch.ones(4, 4)


def _refused(optimizer: Callable[[list[nn.Parameter]], Optimizer]) -> Remapped:
    parameter = nn.Parameter(torch.ones(SHAPE))
    made = optimizer([parameter])
    parameter.grad = torch.ones(SHAPE)
    made.step(lambda: torch.zeros(()))
    before = (list(made.param_groups[0]["params"]), copy.copy(made.state))
    try:
        return remap_parameter(parameter, CHANGES, optimizer=made)
    finally:
        assert made.param_groups[0]["params"][0] is before[0][0] and made.state.keys() == before[1].keys()


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (torch.optim.LBFGS, "element by element, got LBFGS. Use one of ASGD, Adadelta, .* SGD"),
        (torch.optim.Adafactor, "got Adafactor"),
        (_Strange, r"_Strange keeps 'fisher' of shape \(4, 4\)"),
    ],
)
def test_state_that_cannot_be_mapped_is_refused_by_name_and_nothing_is_replaced(optimizer: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _refused(optimizer)


def test_what_does_not_fit_is_refused() -> None:
    parameter = nn.Parameter(torch.ones(SHAPE))
    with pytest.raises(ValueError, match=r"no axis 2 in a tensor of shape \(3, 4\)"):
        remap_parameter(parameter, [AxisChange(axis=2, origin=Origin.identity(3), side="producer")])
    with pytest.raises(ValueError, match=r"changes once in an event, got changes of the axes \[0, 0\]"):
        remap_parameter(parameter, [CHANGES[0], AxisChange(axis=-2, origin=Origin.identity(3), side="producer")])
    with pytest.raises(ValueError, match=r"becomes \(6, 7\) by its changes, but the value given for it is \(6, 6\)"):
        remap_parameter(parameter, CHANGES, value=torch.ones(6, 6))
    with pytest.raises(ValueError, match=r"ema must have the shape of the parameter that it follows, \(3, 4\)"):
        remap_parameter(parameter, CHANGES, followers={"ema": Follower(tensor=torch.ones(4), kind="average")})
    with pytest.raises(ValueError, match="must be in its SGD once, found 0 times"):
        remap_parameter(parameter, CHANGES, optimizer=torch.optim.SGD([_parameter()], lr=0.1))
    with pytest.raises(ValueError, match="'producer', the 'consumer' or the 'predictor' of an axis, got 'both'"):
        AxisChange(axis=0, origin=Origin.identity(3), side="both")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="complex parameters cannot change"):
        remap_parameter(nn.Parameter(torch.ones(SHAPE, dtype=torch.complex64)), CHANGES)


def test_tied_and_unknown_parameters_are_refused_by_all_their_names() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    with pytest.raises(ValueError, match=r"one place, but 0\.weight and 1\.weight are tied. Untie them"):
        check_untied(network, "0.weight")
    with pytest.raises(ValueError, match=r"no parameter '2\.weight' in the network; it has 0\.weight"):
        replace_parameter_(network, "2.weight", network[0].weight)
