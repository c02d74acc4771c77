"""Does a synthetic input learn what it stands for as the formula of its paper written out, and say what it cannot?"""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dni import InputMLP, InputSource, Origin, ReceivedInput, Remappable, SyntheticInput, translate

SGD = partial(torch.optim.SGD, lr=0.05)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(source: SyntheticInput, x: Tensor | tuple[Tensor, ...], h: Tensor | tuple[Tensor, ...]) -> SyntheticInput:
    source.build(x, h, generator=torch.Generator().manual_seed(7))
    return source


def test_both_are_input_sources_and_only_the_synthetic_one_asks_for_the_networks_input() -> None:
    assert isinstance(SyntheticInput(), InputSource) and isinstance(ReceivedInput(), InputSource)
    assert SyntheticInput().needs and not ReceivedInput().needs


def test_linear_map_learns_as_written_out_by_hand() -> None:
    x, h = drawn(6, 2, 3), drawn(6, 4, seed=1)
    source = built(SyntheticInput(InputMLP(hidden=()), optimizer=SGD), x, h)
    weight, bias = (value.detach().clone() for value in source.parameters())
    for step in range(5):
        guess = x.flatten(1) @ weight.T + bias
        torch.testing.assert_close(source.estimate(x), guess, rtol=0, atol=1e-12)
        loss = source.learn(x, h, step=step)
        assert loss == pytest.approx(((guess - h) ** 2).sum().item() / len(x), abs=1e-12)
        slope = 2 * (guess - h) / len(x)
        weight -= 0.05 * slope.T @ x.flatten(1)
        bias -= 0.05 * slope.sum(0)
    for learned, by_hand in zip(source.parameters(), (weight, bias), strict=True):
        torch.testing.assert_close(learned.detach(), by_hand, rtol=0, atol=1e-12)


def test_asking_changes_nothing_and_draws_nothing() -> None:
    x, h = drawn(6, 3), drawn(6, 4, seed=1)
    source = built(SyntheticInput(), x, h)
    before = {name: value.clone() for name, value in source.state_dict().items() if isinstance(value, Tensor)}
    state = torch.get_rng_state()
    assert not isinstance(found := source.estimate(x), tuple) and not found.requires_grad
    assert torch.equal(state, torch.get_rng_state())
    for name, value in before.items():
        assert torch.equal(value, source.state_dict()[name]), name


def test_tuples_are_made_of_tuples() -> None:
    x, h = (drawn(5, 3), drawn(5, 2, 2, seed=1)), (drawn(5, 4, seed=2), drawn(5, 2, 3, seed=3))
    found = built(SyntheticInput(), x, h).estimate(x)
    assert isinstance(found, tuple)
    assert [tuple(member.shape) for member in found if member is not None] == [(5, 4), (5, 2, 3)]


@pytest.mark.parametrize("pair", [False, True])
def test_state_is_taken_over_by_one_that_was_never_built_and_goes_on_as_the_same(pair: bool) -> None:
    x, h = drawn(6, 3), drawn(6, 4, seed=1)
    shown = (h, drawn(6, 2, seed=2)) if pair else h
    source = built(SyntheticInput(optimizer=partial(torch.optim.Adam, lr=0.1)), x, shown)
    source.learn(x, shown, step=0)
    other = SyntheticInput(optimizer=partial(torch.optim.Adam, lr=0.1))
    other.load_state_dict(source.state_dict())
    for one in (source, other):
        one.learn(x, shown, step=1)
    for found, expected in zip(other.parameters(), source.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_network_of_ones_own_may_embed_tokens() -> None:
    tokens = torch.tensor([[0, 1, 2], [2, 2, 1]])
    h = drawn(2, 3, 4)
    source = built(SyntheticInput(nn.Embedding(3, 4)), tokens, h)
    loss = source.learn(tokens, h, step=0)
    assert tuple(source.estimate(tokens).shape) == (2, 3, 4) and source.learn(tokens, h, step=1) < loss


def test_what_cannot_work_is_refused_by_name() -> None:
    x, h = drawn(6, 3), drawn(6, 4, seed=1)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 1.5"):
        SyntheticInput(update_probability=1.5)
    with pytest.raises(ValueError, match="at least 1"):
        InputMLP(hidden=(0,))
    with pytest.raises(ValueError, match=r"floating-point tensors only, and h holds torch.float64, torch.int64"):
        built(SyntheticInput(), x, (h, torch.ones(6, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"network's input, got torch.int64"):
        built(SyntheticInput(), torch.ones(6, 3, dtype=torch.int64), h)
    with pytest.raises(ValueError, match=r"member's shape \(6, 4\), got \(6, 5\)"):
        built(SyntheticInput(nn.Linear(3, 5)), x, h)
    with pytest.raises(TypeError, match="which gave int"):
        built(SyntheticInput(lambda x, member: 3), x, h)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="Use SyntheticInput"):
        ReceivedInput().estimate(x)


SHAPES = {"features": (6, 4), "tokens": (6, 3, 4), "images": (6, 4, 2, 3)}


@pytest.mark.parametrize("kind", SHAPES)
def test_units_that_change_are_predicted_as_before_and_new_ones_are_learned(kind: str) -> None:
    x, h = drawn(6, 5), drawn(*SHAPES[kind], seed=1)
    axis = 2 if kind == "tokens" else 1
    source = built(SyntheticInput(), x, h)
    for step in range(3):
        source.learn(x, h, step=step)
    assert isinstance(source, Remappable) and isinstance(ReceivedInput(), Remappable)
    for origin in (Origin.duplicate([1, 1], num_old=4), Origin.keep([5, 0, 2], num_old=6), Origin.append(2, num_old=3)):
        before = source.estimate(x)
        source.remap(origin, generator=torch.Generator(), axis=axis)
        h = translate(h, origin, holds="activation", axis=axis)
        torch.testing.assert_close(
            source.estimate(x), translate(before, origin, holds="activation", axis=axis), rtol=0, atol=1e-12
        )
        source.learn(x, h, step=3)
    loaded = SyntheticInput()
    loaded.load_state_dict(source.state_dict())
    assert loaded.learn(x, h, step=4) == source.learn(x, h, step=4)
    assert isinstance(h, Tensor)
    losses = [source.learn(x, h + 1, step=5) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_copies_learn_alike_as_the_network_that_predicts_each_by_itself() -> None:
    x, h, origin = drawn(6, 3), drawn(6, 4, seed=1), Origin.duplicate([2], num_old=4)
    source = built(SyntheticInput(nn.Linear(3, 4), optimizer=partial(torch.optim.Adam, lr=0.1)), x, h)
    source.learn(x, h, step=0)
    twin = copy.deepcopy(source)
    source.remap(origin, generator=torch.Generator())
    for step in range(3):
        source.learn(x, h[:, [0, 1, 2, 3, 2]], step=step)
        twin.learn(x, h, step=step)
    found, wanted = source.estimate(x), twin.estimate(x)
    assert isinstance(found, Tensor) and isinstance(wanted, Tensor)
    torch.testing.assert_close(found, wanted[:, [0, 1, 2, 3, 2]], rtol=0, atol=1e-12)


def test_a_network_that_does_not_say_how_it_follows_is_refused() -> None:
    x, h = drawn(6, 3), drawn(6, 4, seed=1)
    source = built(SyntheticInput(nn.Sequential(nn.Linear(3, 4), nn.Tanh())), x, h)
    with pytest.raises(TypeError, match=r"axis_changes.* use InputMLP"):
        source.remap(Origin.identity(4), generator=torch.Generator())
    several = built(SyntheticInput(), x, (h, h))
    with pytest.raises(ValueError, match="one floating-point member, and it has 2"):
        several.remap(Origin.identity(4), generator=torch.Generator())
