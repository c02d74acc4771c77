"""Are the tensors that follow a layer's units those one names by hand, and does the module then compute the same?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni import Coupled, NewUnits, Origin, UnitAxis, change_units, units_of, units_read
from tests.dni.structure.architectures import (
    ARCHITECTURES,
    Attention,
    Concatenated,
    Residual,
    SelfDescribed,
    settled,
)
from tests.dni.structure.networks import changed

INNER = [name for name in ARCHITECTURES if name not in ("boundary", "tokens at the boundary", "stream")]
PLAIN = [name for name in INNER if name != "group norm"]


def _places(coupled: Coupled) -> dict[str, list[tuple[str, int, int, tuple[int, ...]]]]:
    return {
        name: sorted((own.side, own.at.axis, own.at.block, own.at.offsets) for own in parts)
        for name, parts in coupled.hidden.tensors.items()
        if name.endswith("weight")
    }


def _silenced(module: nn.Module, coupled: Coupled, unit: int) -> nn.Module:
    """A copy in which nothing listens to the unit."""
    new = copy.deepcopy(module)
    with torch.no_grad():
        for name, own in coupled.hidden.sides("consumer"):
            for offset in own.at.offsets:
                new.get_parameter(name).narrow(1, offset + unit * own.at.block, own.at.block).zero_()
    return new


@pytest.mark.parametrize("name", INNER)
def test_module_whose_units_are_all_copied_computes_the_same(name: str) -> None:
    module, layer, x = settled(name)
    hidden = units_of(module, layer, x).hidden
    twice = Origin.repeat(2, num_old=hidden.num_units)
    torch.testing.assert_close(changed(module, hidden, twice)(x), module(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_module_with_some_copies_and_new_units_of_alpha_0_computes_the_same(name: str) -> None:
    module, layer, x = settled(name)
    coupled = units_of(module, layer, x)
    origin = Origin.duplicate([2, 0], num_old=coupled.hidden.num_units)
    for change in (origin, origin.then(Origin.append(2, num_old=origin.num_new))):
        torch.testing.assert_close(changed(module, coupled.hidden, change)(x), module(x), rtol=0, atol=1e-12)
    assert not coupled.reaches_output and not coupled.reaches_input


@pytest.mark.parametrize("name", PLAIN)
def test_module_without_a_unit_is_the_module_in_which_nothing_listens_to_it(name: str) -> None:
    module, layer, x = settled(name)
    coupled = units_of(module, layer, x)
    others = [unit for unit in range(coupled.hidden.num_units) if unit != 1]
    small = changed(module, coupled.hidden, Origin.keep(others, num_old=coupled.hidden.num_units))
    torch.testing.assert_close(small(x), _silenced(module, coupled, 1)(x), rtol=0, atol=1e-12)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in module.parameters())


def test_places_are_those_named_by_hand() -> None:
    made, read = ("producer", 0, 1, (0,)), ("consumer", 1, 1, (0,))
    module, layer, x = settled("flattened")
    assert _places(units_of(module, layer, x)) == {
        "0.weight": [made],
        "1.weight": [made],
        "5.weight": [("consumer", 1, 9, (0,))],
    }
    module, layer, x = settled("residual, block")
    stream = {"stem.weight": [made], "slope.weight": [made], "block.weight": [read, made], "norm.weight": [made]}
    assert _places(units_of(module, layer, x)) == stream | {"depthwise.weight": [made], "head.weight": [read]}
    module, layer, x = settled("concatenated")
    behind = {name: [("consumer", 1, 1, (2,))] for name in ("second.weight", "head.weight")}
    expected = {"first.weight": [made], "norm.weight": [("producer", 0, 1, (2,))]} | behind
    assert _places(units_of(module, layer, x)) == expected
    module, layer, x = settled("gated tokens")
    halves = {"both.weight": [("producer", 0, 1, (0, 4))], "head.weight": [read]}
    assert _places(units_of(module, layer, x)) == halves


@pytest.mark.parametrize("fused", [False, True])
def test_attention_without_a_head_is_that_rebuilt_by_hand(fused: bool) -> None:
    module, x = SelfDescribed(width=6, num_heads=4, fused=fused).double(), torch.randn(2, 7, 6).double()
    hidden = units_of(nn.Sequential(module), "0.qkv" if fused else "0.value", x).hidden
    small = changed(nn.Sequential(module), hidden, Origin.keep([0, 3], num_old=4))
    by_hand = SelfDescribed(width=6, num_heads=2, fused=fused).double()
    rows = torch.tensor([0, 1, 6, 7])
    inputs = torch.cat([rows, rows + 8, rows + 16]) if fused else rows
    with torch.no_grad():
        for name, part in by_hand.named_children():
            old, chosen = module.get_submodule(name), (slice(None), rows) if name == "out" else (inputs,)
            part.weight.copy_(old.weight[chosen])
            part.bias.copy_(old.bias if name == "out" else old.bias[inputs])
    assert torch.equal(small(x), by_hand(x))


def test_heads_are_found_by_their_width_too_and_channels_of_heads_are_refused() -> None:
    module, x = Attention(width=6, num_heads=4), torch.randn(2, 7, 6)
    said = units_of(SelfDescribed(width=6, num_heads=4), "query", x)
    assert _places(units_of(module, "query", x, unit_size=2)) == _places(said)
    with pytest.raises(ValueError, match=r"the 8 units of query cannot be followed: .* across units"):
        units_of(module, "query", x)
    with pytest.raises(ValueError, match="query has 8 channels, which are no units of 3 each"):
        units_of(module, "query", x, unit_size=3)


@pytest.mark.parametrize(
    ("name", "axis", "block", "above"),
    [
        ("boundary", 1, 9, lambda: nn.Sequential(nn.Tanh(), nn.Linear(36, 5))),
        ("tokens at the boundary", 2, 1, lambda: SelfDescribed(width=4, num_heads=2)),
    ],
)
def test_both_sides_of_a_boundary_follow_one_origin(
    name: str, axis: int, block: int, above: Callable[[], nn.Module]
) -> None:
    below, layer, x = settled(name)
    upper, h = above().double(), below(x).detach()
    made = units_of(below, layer, x)
    assert made.output == UnitAxis(axis=axis, block=block) and not made.reaches_input
    assert not list(made.hidden.sides("consumer"))
    read = units_read(upper, h, axis=axis)
    assert read.input == UnitAxis(axis=axis) and not list(read.hidden.sides("producer"))
    assert read.hidden.num_units == h.shape[axis]
    for origin in (Origin.duplicate([0, 2], num_old=4), Origin.append(1, num_old=4), Origin.renew([3], num_old=4)):
        entries = made.output.expand(origin, h.shape[axis])
        whole = changed(upper, read.hidden, entries)(changed(below, made.hidden, origin)(x))
        silent = upper if 3 in origin.sources else _silenced_entries(upper, read, block)
        torch.testing.assert_close(whole, silent(h), rtol=0, atol=1e-12)


def _silenced_entries(module: nn.Module, coupled: Coupled, block: int) -> nn.Module:
    for entry in range(3 * block, 4 * block):
        module = _silenced(module, coupled, entry)
    return module


def test_stream_that_goes_through_a_stage_is_coupled_across_both_boundaries() -> None:
    module, layer, x = settled("stream")
    written = units_of(module, layer, x)
    assert written.input == written.output == UnitAxis(axis=2) and written.hidden.mixes_units
    read = units_read(module, x, axis=-1)
    assert _places(read) == _places(written) and read.output == read.input == UnitAxis(axis=2)
    twice = Origin(num_old=6, sources=(*range(6), *range(6)), scale=(0.5,) * 12)
    wide = changed(module, read.hidden, twice)(torch.cat([x, x], -1))
    torch.testing.assert_close(wide, torch.cat([module(x)] * 2, -1), rtol=0, atol=1e-12)


def test_last_layer_is_reported_as_one_whose_units_are_the_output() -> None:
    module, _, x = settled("flattened")
    coupled = units_of(module, "7", x)
    assert coupled.reaches_output and not list(coupled.hidden.sides("consumer"))


def _add_half(layer: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """As components beside a layer do."""
    beside: Tensor = layer.beside(args[0])
    return y + 0.5 * beside


def test_parts_that_plain_hooks_add_to_a_layer_follow_with_it() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    for layer in (module[0], module[2]):
        layer.add_module("beside", nn.Linear(layer.in_features, layer.out_features, bias=False).double())
        layer.register_forward_hook(_add_half)
    x = torch.randn(3, 5).double()
    hidden = units_of(module, "0", x).hidden
    assert hidden.tensors.keys() == {"0.weight", "0.bias", "0.beside.weight", "2.weight", "2.beside.weight"}
    wide = changed(module, hidden, Origin.duplicate([1], num_old=4))
    torch.testing.assert_close(wide(x), module(x), rtol=0, atol=1e-12)


class _Watched(nn.Module):
    """Draws numbers, and is watched."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Residual()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x + torch.rand(len(x), 1, 1, 1))
        return y


def test_module_and_generators_are_left_as_they_are() -> None:
    module, x, seen = _Watched().train(), torch.randn(3, 2, 6, 6, requires_grad=True), []
    module.inner.norm.register_forward_hook(lambda *_: seen.append(1))
    module.inner.head.register_full_backward_hook(lambda *_: seen.append(2))
    module.inner.block.weight.requires_grad_(False)
    module(x).sum().backward()
    seen.clear()
    gradients = {name: own.grad.clone() for name, own in module.named_parameters() if own.grad is not None}
    state, objects = copy.deepcopy(module.state_dict()), [*module.parameters(), *module.buffers()]
    learning, drawn = [own.requires_grad for own in module.parameters()], torch.get_rng_state()
    gradient = x.grad.clone()  # type: ignore[union-attr]
    coupled = units_of(module, "inner.block", x)
    units_read(module, x)
    assert torch.equal(torch.get_rng_state(), drawn) and seen == [] and module.training and module.inner.norm.training
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(one is other for one, other in zip(objects, [*module.parameters(), *module.buffers()], strict=True))
    assert learning == [own.requires_grad for own in module.parameters()]
    after = {name: own.grad for name, own in module.named_parameters() if own.grad is not None}
    assert after.keys() == gradients.keys() and all(torch.equal(after[name], gradients[name]) for name in after)
    assert torch.equal(x.grad, gradient) and len(module.inner.norm._forward_hooks) == 1  # type: ignore[arg-type]
    for parts in coupled.hidden.tensors.values():
        assert all(own.tensor.data_ptr() in {each.data_ptr() for each in objects} for own in parts)


class _Fixed(nn.Module):
    def __init__(self, work: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.work, self.layers = work, nn.ModuleList(layers)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layers[0](x)
        y: Tensor = self.layers[1](self.work(h * self.scale if len(self.layers) > 2 else h))
        return y


class _Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x)[0]
        return y


def _attention(h: Tensor, layer: nn.MultiheadAttention) -> Tensor:
    y: Tensor = layer(h, h, h)[0]
    return y


class _Multihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.heads = nn.Linear(5, 4), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return _attention(self.first(x), self.heads)


LINEAR = (nn.Linear(5, 4), nn.Linear(4, 3))
REFUSED: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...], type[Exception], str]] = {
    "no layer": (lambda: nn.Sequential(*LINEAR), "2", (5,), ValueError, "no layer '2' in the module; it has 0, 1"),
    "of no known kind": (_Last, "lstm", (7, 4), TypeError, r"lstm must be one of Linear, .* weight_ih_l0 \(12, 4\)"),
    "recurrent": (
        lambda: nn.Sequential(nn.Linear(5, 4), _Last()),
        "0",
        (7, 5),
        TypeError,
        r"1\.lstm must be one of .* it is a LSTM",
    ),
    "multihead": (_Multihead, "first", (7, 5), TypeError, "heads must be one of .* it is a MultiheadAttention"),
    "parameter": (
        lambda: _Fixed(torch.tanh, *LINEAR, nn.ReLU()),
        "layers.0",
        (5,),
        TypeError,
        r"scale, a parameter \(4,\), would have to follow the 4 units of layers\.0",
    ),
    "size in the code": (
        lambda: _Fixed(lambda h: h.view(-1, 4), *LINEAR),
        "layers.0",
        (5,),
        ValueError,
        r"the 4 units of layers\.0 cannot be followed: with layers\.0\.weight, .* Something else works on them",
    ),
    "across units": (
        lambda: _Fixed(lambda h: h.softmax(-1), *LINEAR),
        "layers.0",
        (5,),
        ValueError,
        "cannot be followed: .* an operation across units",
    ),
    "in another order": (
        lambda: _Fixed(lambda h: h.flip(-1), *LINEAR),
        "layers.0",
        (5,),
        ValueError,
        "cannot be followed",
    ),
    "some of them": (
        lambda: _Fixed(lambda h: h[:, :2], nn.Linear(5, 4), nn.Linear(2, 3)),
        "layers.0",
        (5,),
        ValueError,
        r"layers\.1 has the 4 units of layers\.0 scattered, or only some of them, among its 2 entries",
    ),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1, groups=2)),
        "0",
        (2, 6, 6),
        ValueError,
        "1 has 2 groups of 2 channels each",
    ),
    "not called": (
        lambda: _Fixed(torch.tanh, *LINEAR, nn.Linear(4, 4)),
        "layers.2",
        (5,),
        ValueError,
        r"layers\.2 must be a layer that the module calls",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_change_is_refused_by_name_and_size(name: str) -> None:
    make, layer, shape, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        units_of(make(), layer, torch.randn(3, *shape))


def test_tied_parameters_and_inputs_without_units_are_refused() -> None:
    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    with pytest.raises(ValueError, match=r"0\.weight and 2\.weight are tied"):
        units_of(tied, "0", torch.randn(3, 4))
    embedding = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"got torch\.int64 of \(3, 1\) and axis 1"):
        units_read(embedding, torch.ones(3, 1, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"0 must be one of .* it is a Embedding"):
        units_of(nn.Sequential(embedding[0], nn.Tanh(), nn.Linear(4, 4)), "0", torch.ones(3, 2, dtype=torch.int64))
    module, _, x = settled("gated")
    with pytest.raises(ValueError, match="has 8 entries, but to the module they are 4 units of several each"):
        units_read(_Fixed(lambda h: h[:, :4] * h[:, 4:], nn.Identity(), nn.Linear(4, 3)), torch.randn(3, 8))
    with pytest.raises(ValueError, match=r"1 has the 8 units of the input .* among its 4 entries"):
        units_read(nn.Sequential(nn.GLU(), nn.Linear(4, 3)), torch.randn(3, 8))
    changes = change_units(units_of(module, "both", x).hidden, Origin.identity(4), NewUnits(), keyed=_never)
    assert all(torch.equal(change.value, module.get_parameter(name)) for name, change in changes.items())  # type: ignore[arg-type]
    assert units_read(Concatenated(), torch.randn(2, 2, 6, 6)).hidden.num_units == 2


def _never(name: str) -> torch.Generator:
    raise AssertionError(name)
