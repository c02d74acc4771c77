"""Does a stage become sparse as it is said to, and is it then rewired by the rule itself?"""

from __future__ import annotations

import pytest
import torch

from dni import (
    SET,
    DenseSparseDense,
    GradualMagnitude,
    Measure,
    Rewire,
    RigL,
    erdos_renyi_kernel,
    random_masks,
    uniform_density,
)
from tests.dni.events.stage import KEYED, mlp, planned


@pytest.mark.parametrize("distribution", ["erdos-renyi-kernel", "uniform"])
def test_first_time_draws_the_masks_and_the_next_one_rewires(distribution: str) -> None:
    stage = mlp(20, 30, 10)
    action = Rewire(rule=SET(share=0.3), sparsity=0.8, distribution=distribution)  # type: ignore[arg-type]
    shapes = {"0.weight": (30, 20), "2.weight": (10, 30)}
    share_out = erdos_renyi_kernel if distribution == "erdos-renyi-kernel" else uniform_density
    masks = random_masks(shapes, share_out(shapes, 1 - 0.8), KEYED)
    plan = planned(action, stage)
    stage.kept = plan.after(stage.kept, stage.parameters)
    assert all(torch.equal(stage.kept[name], masks[name]) for name in shapes) and len(stage.kept) == 2
    assert str(plan) == f"prune 720 of 900 weights in 2 tensors ({distribution})"
    twin = action.rule.plan(stage.parameters, masks, step=7, keyed=KEYED)
    plan = planned(action, stage)
    assert plan.rewiring.to_record() == twin.to_record() and "(SET)" in str(plan)
    after = plan.after(stage.kept, stage.parameters)
    assert {name: int(mask.sum()) for name, mask in after.items()} == {n: int(m.sum()) for n, m in masks.items()}


def test_gradients_are_given_to_rules_that_grow_by_them() -> None:
    stage, action = mlp(20, 30, 10), Rewire(rule=RigL(until=100), sparsity=0.9, layers=("0",))
    assert action.asks == Measure.GRADIENT and Rewire(rule=SET()).asks == Measure.NOTHING
    stage.kept = planned(action, stage).after({}, stage.parameters)
    stage.gradients = {"0.weight": torch.randn(30, 20).double()}
    seen = stage.parameters["0.weight"].detach().clone()
    seen.grad = stage.gradients["0.weight"]
    twin = action.rule.plan({"0.weight": seen}, stage.kept, step=7, keyed=KEYED)
    plan = planned(action, stage)
    assert plan.rewiring.to_record() == twin.to_record() and plan.rewiring.tensors["0.weight"].grown.numel()


def test_rules_that_make_a_layer_sparse_begin_with_all_of_it() -> None:
    stage = mlp(20, 30, 10)
    plan = planned(Rewire(rule=GradualMagnitude(start=0, stop=7, final=0.5)), stage)
    after = plan.after({}, stage.parameters)
    assert {name: int(mask.sum()) for name, mask in after.items()} == {"0.weight": 300, "2.weight": 150}
    early = Rewire(rule=DenseSparseDense(sparse_from=10, dense_from=20))
    assert early.plan(stage, step=7, keyed=KEYED) is None
    assert early.plan(mlp(3, 2), step=0, keyed=KEYED) is None


def test_what_cannot_be_rewired_is_refused() -> None:
    with pytest.raises(ValueError, match=r"RigL rewires what is sparse, but 0.weight, 2.weight is dense"):
        Rewire(rule=RigL(until=9)).plan(mlp(5, 8, 3), step=0, keyed=KEYED)
    for sparsity in (0.0, 1.0):
        with pytest.raises(ValueError, match="the sparsity to begin with"):
            Rewire(rule=SET(), sparsity=sparsity)
    with pytest.raises(ValueError, match="densities are shared out by"):
        Rewire(rule=SET(), distribution="even")  # type: ignore[arg-type]
