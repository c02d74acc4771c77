"""Do layers get the units that they are said to get, and no more than they may have?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dni import (
    NEW,
    Count,
    GradMax,
    Grow,
    LinearRamp,
    Measure,
    Origin,
    Share,
    Widen,
    auxiliary_gradient,
    gradmax_values,
    random_units,
)
from dni.structure.change import NewUnits
from tests.dni.events.stage import KEYED, layer_norm, mlp, planned
from tests.dni.structure.networks import changed


def test_new_units_are_appended() -> None:
    stage = mlp(5, 8, 6, 3)
    plan = planned(Grow(layers=("0", "2"), amount=Share(0.25), alpha=0.5), stage)
    assert [(change.layer, change.origin.sources, change.new) for change in plan.changes] == [
        ("0", (*range(8), NEW, NEW), NewUnits(alpha=0.5)),
        ("2", (*range(6), NEW, NEW), NewUnits(alpha=0.5)),
    ]
    assert str(plan) == "grow 0 from 8 to 10 units, 2 from 6 to 8 units (alpha 0.5)"
    assert Grow(layers=("0",), amount=Share(0.01)).plan(stage, step=0, keyed=KEYED) is None
    gated = planned(Grow(layers=("0",), amount=Count(1), alpha=1.0, ramp=LinearRamp(num_steps=10)), stage)
    assert str(gated) == "grow 0 from 8 to 9 units (alpha 1, behind a gate)"
    assert gated.to_record()["changes"][0]["ramp"] == "LinearRamp(num_steps=10)"


def test_copied_units_are_drawn_by_layer() -> None:
    stage = mlp(5, 8, 6, 3)
    [change] = planned(Widen(layers=("2",), amount=Count(4), noise=0.01), stage).changes
    copied = random_units(6, 4, generator=KEYED("2"))
    assert change.origin.sources == (*range(6), *copied) and change.new == NewUnits(noise=0.01)
    assert change.origin.scale[6] == 1 / (1 + copied.count(copied[0]))


def test_gradmax_gives_the_values_of_its_own_function() -> None:
    stage = mlp(5, 4, 3)
    stage.auxiliary = {"0": auxiliary_gradient(torch.randn(9, 5).double(), torch.randn(9, 3).double())}
    action = GradMax(layers=("0",), amount=Count(2), activation=nn.Tanh(), scale=0.5)
    assert action.asks == Measure.AUXILIARY
    plan = planned(action, stage)
    twin = gradmax_values(stage.units("0"), stage.auxiliary["0"], 2, activation=nn.Tanh(), scale=0.5)
    given = plan.given["0"]
    assert given.keys() == {"0.weight", "0.bias", "2.weight"} and plan.changes[0].new.alpha == 1.0
    assert all(torch.equal(value, twin[name]) for name, value in given.items()) and given["2.weight"].any()
    assert str(plan) == "grow 0 from 4 to 6 units (GradMax)"


def test_gradmax_refuses_what_it_cannot_grow() -> None:
    stage = mlp(5, 4, 4, 3)
    stage.auxiliary = {layer: torch.randn(size).double() for layer, size in (("0", (4, 5)), ("2", (3, 4)))}
    both = GradMax(layers=("0", "2"), amount=Count(1), activation=nn.Tanh())
    with pytest.raises(ValueError, match=r"must not read one another, but 2.weight would change twice"):
        both.plan(stage, step=0, keyed=KEYED)
    stage.auxiliary = {}
    one = GradMax(layers=("0",), amount=Count(1), activation=nn.Tanh())
    with pytest.raises(ValueError, match="G of 0 must have been measured for GradMax, got that of none"):
        one.plan(stage, step=0, keyed=KEYED)
    stage.auxiliary = {"0": torch.randn(3, 5).double()}
    with pytest.raises(ValueError, match=r"G of this layer must be \(4, 5\)"):
        one.plan(stage, step=0, keyed=KEYED)
    stage.readers["0"] = ["2", "4"]
    with pytest.raises(ValueError, match="GradMax needs one layer"):
        one.plan(stage, step=0, keyed=KEYED)
    dead = GradMax(layers=("0",), amount=Count(1), activation=nn.ReLU())
    with pytest.raises(ValueError, match="torch gives ReLU slope 0"):
        dead.plan(stage, step=0, keyed=KEYED)


@pytest.mark.parametrize("kind", [Grow, Widen])
def test_growth_beyond_a_limit_is_refused(kind: type[Grow] | type[Widen]) -> None:
    action = kind(layers=("0",), amount=Count(3), at_most=8)
    assert planned(action, mlp(5, 5, 2)).changes[0].origin.num_new == 8
    with pytest.raises(ValueError, match=r"8 units at most, but growing 6 by Count\(value=3\) makes it 9"):
        action.plan(mlp(5, 6, 2), step=0, keyed=KEYED)


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha, .* got 1.5"):
        Grow(layers=("0",), amount=Count(1), alpha=1.5)
    with pytest.raises(ValueError, match="Give alpha=1 with a ramp"):
        Grow(layers=("0",), amount=Count(1), ramp=LinearRamp(num_steps=3))
    with pytest.raises(ValueError, match="noise on copies"):
        Widen(layers=("0",), amount=Count(1), noise=-1.0)
    with pytest.raises(ValueError, match="units that never learn"):
        GradMax(layers=("0",), amount=Count(1), activation=nn.Tanh(), scale=0.0)
    with pytest.raises(ValueError, match="at_most=0"):
        Grow(layers=("0",), amount=Count(1), at_most=0)


def test_growth_that_keeps_the_function_is_refused_where_a_norm_is_over_the_units() -> None:
    stage, ramp = layer_norm(), LinearRamp(num_steps=9)
    kept = (
        Grow(layers=("0",), amount=Count(1)),
        Grow(layers=("0",), amount=Count(1), alpha=1.0, ramp=ramp),
        GradMax(layers=("0",), amount=Count(1), activation=nn.Tanh()),
        Widen(layers=("0",), amount=Count(1)),
    )
    for action in kept:
        with pytest.raises(ValueError, match="LayerNorm and GroupNorm take their statistics over units, so"):
            action.plan(stage, step=0, keyed=KEYED)
    assert planned(Grow(layers=("0",), amount=Count(1), alpha=0.5), stage).changes, "it changes the function anyway"


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4)], ids=["LayerNorm", "GroupNorm"])
def test_norm_over_units_whose_copies_are_all_made_equally_often_keeps_the_function(norm: nn.Module) -> None:
    stage, x = layer_norm(norm), torch.randn(6, 5).double()
    [change] = planned(Widen(layers=("0",), amount=Count(8), noise=0.1), stage).changes
    assert change.origin == Origin.repeat(3, num_old=4)
    wide = changed(stage.module, stage.units("0"), change.origin, change.new)
    torch.testing.assert_close(wide(x), stage.module(x), rtol=0, atol=1e-12)
