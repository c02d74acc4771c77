"""Do rules of sparse training drop and grow exactly what a loop over single weights would?"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dni import SET, DenseSparseDense, GradualMagnitude, RigL, kept_after
from pipeline.randomness.keyed import generator

KEYED = partial(generator, 0, step=0)


def _network(seed: int, density: float = 0.4) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    drawn = torch.Generator().manual_seed(seed)
    parameters, kept = {}, {}
    for name, shape in {"0.weight": (6, 5), "2.weight": (3, 4, 2, 2)}.items():
        kept[name] = torch.rand(shape, generator=drawn) < density
        kept[name].view(-1)[0] = True
        parameters[name] = nn.Parameter(torch.randn(shape, generator=drawn, dtype=torch.float64) * kept[name])
        parameters[name].grad = torch.randn(shape, generator=drawn, dtype=torch.float64)
    return parameters, kept


def _naive_rigl(parameter: nn.Parameter, kept: Tensor, share: float) -> list[bool]:
    """The mask after RigL, as its algorithm says it: drop k, then grow k of all that is off."""
    assert parameter.grad is not None
    w, g, on = parameter.detach().flatten().tolist(), parameter.grad.flatten().tolist(), kept.flatten().tolist()
    count = int(share * sum(on))
    for _ in range(count):
        on[min((i for i in range(len(w)) if on[i]), key=lambda i: abs(w[i]))] = False
    for place in sorted((i for i in range(len(w)) if not on[i]), key=lambda i: -abs(g[i]))[:count]:
        on[place] = True
    return on


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), step=st.integers(0, 99), share=st.floats(0, 0.99), density=st.floats(0.1, 1.0))
def test_rigl_is_the_loop_of_its_algorithm(seed: int, step: int, share: float, density: float) -> None:
    parameters, kept = _network(seed, density)
    rule = RigL(share=share, until=100)
    assert rule.share_at(step) == pytest.approx(share / 2 * (1 + math.cos(math.pi * step / 100)))
    plan = rule.plan(parameters, kept, step=step, keyed=KEYED)
    after = kept_after(plan, kept)
    for name in kept:
        change = plan.tensors[name]
        assert change.dropped.numel() == change.grown.numel(), "the density stays"
        assert after[name].flatten().tolist() == _naive_rigl(parameters[name], kept[name], rule.share_at(step))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0, 0.99), density=st.floats(0.1, 0.9))
def test_set_drops_the_smallest_of_both_signs_and_grows_as_many(seed: int, share: float, density: float) -> None:
    parameters, kept = _network(seed, density)
    plan = SET(share=share).plan(parameters, kept, step=3, keyed=KEYED)
    after = kept_after(plan, kept)
    for name, mask in kept.items():
        w, on = parameters[name].detach().flatten().tolist(), mask.flatten().tolist()
        positive = sorted((i for i in range(len(w)) if on[i] and w[i] >= 0), key=lambda i: w[i])
        negative = sorted((i for i in range(len(w)) if on[i] and w[i] < 0), key=lambda i: -w[i])
        small = {*positive[: int(share * len(positive))], *negative[: int(share * len(negative))]}
        change = plan.tensors[name]
        assert change.dropped.numel() == change.grown.numel() and int(after[name].sum()) == int(mask.sum())
        assert set(change.dropped.tolist()) <= small, "others of them were drawn again"
        assert len(small) == change.dropped.numel() + sum(bool(after[name].flatten()[i]) for i in small)


def test_what_set_grows_is_keyed_and_spread() -> None:
    parameters = {"a": nn.Parameter(torch.arange(1.0, 1001.0))}
    kept = {"a": torch.arange(1000) < 300}
    first, again, other = (
        SET(share=0.5).plan(parameters, kept, step=0, keyed=partial(generator, seed, step=0)).tensors["a"].grown
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    outside = first[first >= 300]
    assert 500 < float(outside.double().mean()) < 800


def test_rigl_rests_from_its_end_on() -> None:
    parameters, kept = _network(0)
    rule = RigL(until=75)
    assert rule.share_at(0) == pytest.approx(0.3) and rule.share_at(75) == rule.share_at(1000) == 0.0
    plan = rule.plan(parameters, kept, step=75, keyed=KEYED)
    assert str(plan) == "RigL(until=75, share=0.3) at step 75: nothing changes"


def test_gradual_pruning_follows_its_cubic_and_never_grows() -> None:
    rule = GradualMagnitude(start=10, stop=110, final=0.8, initial=0.1)
    assert [rule.share_at(step) for step in (0, 10, 60, 110, 500)] == pytest.approx([0.1, 0.1, 0.7125, 0.8, 0.8])
    parameters, kept = _network(0, density=2.0)
    for step in range(0, 130, 20):
        plan = rule.plan(parameters, kept, step=step, keyed=KEYED)
        before, kept = kept, kept_after(plan, kept)
        for name, mask in kept.items():
            size, magnitude = mask.numel(), parameters[name].detach().abs()
            assert int(mask.sum()) == size - round(rule.share_at(step) * size) and not (mask & ~before[name]).any()
            assert magnitude[~mask].max() < magnitude[mask].min()
    assert int(kept["0.weight"].sum()) == 6


def test_dense_sparse_dense_prunes_once_and_lets_all_come_back() -> None:
    rule = DenseSparseDense(sparse_from=10, dense_from=20, share=0.25)
    parameters, dense = _network(0, density=2.0)
    plans = {step: rule.plan(parameters, dense, step=step, keyed=KEYED) for step in (0, 10)}
    assert "nothing changes" in str(plans[0])
    kept = kept_after(plans[10], dense)
    assert {name: int((~mask).sum()) for name, mask in kept.items()} == {"0.weight": 8, "2.weight": 12}
    assert "nothing changes" in str(rule.plan(parameters, kept, step=15, keyed=KEYED))
    again = kept_after(rule.plan(parameters, kept, step=20, keyed=KEYED), kept)
    assert all(mask.all() for mask in again.values())
    assert [rule.rate(step) for step in (0, 15, 20)] == [1.0, 1.0, 0.1]


def test_rules_that_cannot_be_are_refused() -> None:
    for share in (-0.1, 1.0, 1.5):
        for make in (SET, partial(RigL, until=1), partial(DenseSparseDense, sparse_from=0, dense_from=1)):
            with pytest.raises(ValueError, match=rf"must lie in \[0, 1\), got {share}; 1 leaves nothing of a layer"):
                make(share=share)  # type: ignore[operator]
    with pytest.raises(ValueError, match="at least 1 step, got until=0"):
        RigL(until=0)
    with pytest.raises(ValueError, match="got 5 to 5"):
        GradualMagnitude(start=5, stop=5, final=0.5)
    with pytest.raises(ValueError, match=r"must grow within \[0, 1\), got 0.6 to 0.5"):
        GradualMagnitude(start=0, stop=5, final=0.5, initial=0.6)
    with pytest.raises(ValueError, match="got sparse from 9, dense from 9"):
        DenseSparseDense(sparse_from=9, dense_from=9)
    with pytest.raises(ValueError, match="the factor of the learning rate must be positive, got 0"):
        DenseSparseDense(sparse_from=0, dense_from=9, rate_factor=0)


def test_what_cannot_be_planned_is_refused_by_name() -> None:
    parameters, kept = _network(0)
    with pytest.raises(ValueError, match=r"the mask of 9\.weight, \(2,\), must have a parameter .*: only 0\.weight"):
        SET().plan(parameters, {"9.weight": torch.ones(2, dtype=torch.bool)}, step=0, keyed=KEYED)
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        parameter.grad *= kept[name]
    with pytest.raises(ValueError, match=r"gradient of 0\.weight must be dense .* before the gradients are masked"):
        RigL(until=9).plan(parameters, kept, step=0, keyed=KEYED)
    parameters["0.weight"].grad = None
    with pytest.raises(ValueError, match=r"0\.weight must have a gradient to grow by, found None"):
        RigL(until=9).plan(parameters, kept, step=0, keyed=KEYED)
    one = {"a": nn.Parameter(torch.tensor([1.0]))}
    with pytest.raises(
        ValueError, match=r"at least 1 of the 1 numbers of a must stay, but pruning 0\.9 of it leaves none"
    ):
        GradualMagnitude(start=0, stop=1, final=0.9).plan(one, {"a": torch.tensor([True])}, step=1, keyed=KEYED)
    one["a"].data[0] = math.nan
    with pytest.raises(ValueError, match="the weights of a must be finite"):
        SET().plan(one, {"a": torch.tensor([True])}, step=1, keyed=KEYED)
