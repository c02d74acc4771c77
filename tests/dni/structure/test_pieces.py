"""Does every part of a parameter go on learning through changes as if it had always been alone?"""

from __future__ import annotations

import copy
from functools import partial
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim
from torch.optim import Optimizer

from dni import (
    NEW,
    AxisChange,
    Memory,
    Origin,
    Piece,
    PieceState,
    TensorChange,
    follow_pieces,
    map_tensor,
    merge_mature,
)
from dni.structure.followers import fresh_entries
from tests.dni.structure.optimizers import OPTIMIZERS, PerElementAdam, Pieced, stepped

SHAPE = (3, 4)
COPIED = TensorChange(
    axes=(
        AxisChange(axis=0, origin=Origin.duplicate([1, 1, 2], num_old=3), side="producer"),
        AxisChange(axis=-1, origin=Origin.append(2, num_old=4).then(Origin.duplicate([0], num_old=6)), side="consumer"),
    )
)
GROWN = TensorChange(
    axes=(
        AxisChange(axis=0, origin=Origin.append(2, num_old=3), side="producer"),
        AxisChange(axis=1, origin=Origin.insert([0, 3], num_old=4), side="consumer"),
    )
)
NARROWED = TensorChange(
    axes=(
        AxisChange(axis=0, origin=Origin.keep(range(3), num_old=5), side="producer"),
        AxisChange(axis=1, origin=Origin.keep([1, 2, 4, 5], num_old=6), side="consumer"),
    )
)
ELEMENT_WISE = [name for name in OPTIMIZERS if name != "Muon"]
ONE_COUNT = ["SGD", "momentum", "RMSprop", "Adadelta", "Rprop", "Muon"]
"""Those whose updates do not depend on a count."""


def _rows(count: int, num_old: int) -> TensorChange:
    return TensorChange(axes=(AxisChange(axis=0, origin=Origin.append(count, num_old=num_old), side="producer"),))


def _draw(count: int, *shape: int) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64) for _ in range(count)]


def _trained(name: str, *shape: int, steps: int = 3) -> Pieced:
    held = Pieced(OPTIMIZERS[name], torch.randn(shape, dtype=torch.float64))
    held.step(*_draw(steps, *shape))
    return held


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_of_kept_entries_is_that_of_an_optimiser_that_had_the_new_shape_from_the_start(name: str) -> None:
    held, gradients = Pieced(OPTIMIZERS[name], torch.randn(SHAPE, dtype=torch.float64)), _draw(3, *SHAPE)
    twin = nn.Parameter(map_tensor(held.value, COPIED.axes, "value"))
    truth = OPTIMIZERS[name]([twin])
    held.step(*gradients)
    stepped(truth, twin, [map_tensor(gradient, COPIED.axes, "gradient") for gradient in gradients])
    held.follow(COPIED)
    is_kept = ~fresh_entries(SHAPE, COPIED.axes).expand(6, 7)
    seen = 0
    for own in held.pieces:
        kept = own.piece.of(is_kept)
        assert kept.all() or not kept.any() or own.piece.box == ()
        if not kept.any():
            assert not own.state or (name == "Adagrad" and own.state["step"] == 0 and (own.state["sum"] == 0.1).all())
            continue
        seen += int(kept.sum())
        expected = truth.state.get(twin, {})
        assert own.state.keys() == expected.keys()
        for key, value in expected.items():
            wanted = own.piece.of(held.value if key == "ax" else value) if value.dim() else value
            if value.dim():
                torch.testing.assert_close(own.state[key][kept], wanted[kept], rtol=1e-9, atol=1e-25)
            else:
                torch.testing.assert_close(own.state[key], wanted)
    assert seen == int(is_kept.sum())
    held.step(*_draw(1, 6, 7))
    assert held.value.isfinite().all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_widened_then_narrowed_parameter_takes_the_very_same_next_steps(name: str) -> None:
    make = OPTIMIZERS[name] if name == "Rprop" else partial(OPTIMIZERS[name], weight_decay=0.01)
    held, gradients = Pieced(make, torch.randn(SHAPE)), [torch.randn(SHAPE) for _ in range(5)]
    held.step(*gradients[:3])
    plain = copy.deepcopy(held)
    plain._load(held.value, held.pieces)
    held.follow(GROWN)
    assert (len(held.boxes) == 1) == (name in ONE_COUNT)
    held.follow(NARROWED)
    assert held.boxes == [()]
    held.step(*gradients[3:])
    plain.step(*gradients[3:])
    assert torch.equal(held.value, plain.value)


@pytest.mark.parametrize("name", ELEMENT_WISE)
def test_entries_that_grow_in_two_events_learn_as_parameters_of_their_own(name: str) -> None:
    """The twin has a parameter with an optimiser of its own for what was there, and for what came in each event."""
    held = _trained(name, 3, 2)
    twins: list[tuple[Piece, nn.Parameter, Optimizer]] = []

    def begin(*box: tuple[int, int]) -> None:
        parameter = nn.Parameter(Piece("w", box).of(held.value).clone())
        twins.append((Piece("w", box), parameter, OPTIMIZERS[name]([parameter])))

    def step() -> None:
        (gradient,) = _draw(1, *held.value.shape)
        held.step(gradient)
        for piece, parameter, optimizer in twins:
            stepped(optimizer, parameter, [piece.of(gradient)])

    begin((0, 3), (0, 2))
    twins[0][2].state[twins[0][1]] = copy.deepcopy(dict(held.pieces[0].state))
    held.follow(held.set_value(_rows(2, 3)))
    begin((3, 5), (0, 2))
    step()
    step()
    columns = AxisChange(axis=1, origin=Origin.append(1, num_old=2), side="consumer")
    held.follow(held.set_value(TensorChange(axes=(columns,))))
    begin((0, 5), (2, 3))
    for _ in range(3):
        step()
    by_event = [((0, 3), (0, 2)), ((0, 5), (2, 3)), ((3, 5), (0, 2))]
    dampened = [((0, 5), (0, 2)), ((0, 5), (2, 3))]  # only the first update of an entry is another
    assert held.boxes == ([()] if name in ONE_COUNT else dampened if name == "dampened" else by_event)
    for piece, parameter, _ in twins:
        torch.testing.assert_close(piece.of(held.value), parameter.detach(), rtol=1e-12, atol=0)
    assert torch.equal(held.value[:3, :2], twins[0][1]), "as if it had never grown"


def test_pruned_parameter_keeps_slices_of_its_pieces() -> None:
    held = _trained("Adam", 3, 2)
    held.follow(held.set_value(_rows(2, 3)))
    held.step(*_draw(2, 5, 2))
    before = held.pieces
    assert [int(own.state["step"]) for own in before] == [5, 2]

    def keep(*rows: int) -> list[PieceState]:
        pruned = copy.deepcopy(held)
        pruned._load(held.value, before)
        origin = Origin.keep(rows, num_old=5)
        pruned.follow(TensorChange(axes=(AxisChange(axis=0, origin=origin, side="producer"),)))
        return pruned.pieces

    old, new = keep(0, 2, 4)
    assert (old.piece.box, new.piece.box) == (((0, 2),), ((2, 3),))
    assert torch.equal(old.state["exp_avg"], before[0].state["exp_avg"][[0, 2]])
    assert torch.equal(new.state["exp_avg_sq"], before[1].state["exp_avg_sq"][[1]])
    for rows, source in (((0, 1), before[0]), ((3, 4), before[1])):
        (whole,) = keep(*rows)
        assert whole.piece == Piece("w") and whole.state["step"] == source.state["step"]
        assert torch.equal(whole.state["exp_avg"], source.state["exp_avg"][:2])


def test_copies_are_as_old_as_their_source() -> None:
    held = _trained("Adam", 2, 2)
    held.follow(held.set_value(_rows(1, 2)))
    held.step(*_draw(2, 3, 2))
    young = held.pieces[1].state
    origin = Origin.duplicate([2, 0], num_old=3)
    held.follow(TensorChange(axes=(AxisChange(axis=0, origin=origin, side="producer"),)))
    assert held.boxes == [((0, 2),), ((2, 4),), ((4, 5),)]
    assert [int(own.state["step"]) for own in held.pieces] == [5, 2, 5]
    copies = held.pieces[1].state
    assert torch.equal(copies["exp_avg"], young["exp_avg"].expand(2, 2) / 2)
    assert torch.equal(copies["exp_avg_sq"], young["exp_avg_sq"].expand(2, 2) / 4)


@pytest.mark.parametrize("name", ELEMENT_WISE)
def test_unit_that_begins_anew_is_a_new_parameter(name: str) -> None:
    held = _trained(name, 3, 2)
    anew = Origin(num_old=3, sources=(0, NEW, 2), scale=(1.0, 1.0, 1.0))
    held.follow(held.set_value(TensorChange(axes=(AxisChange(axis=0, origin=anew, side="producer"),))))
    new = nn.Parameter(held.value[1:2].clone())
    optimizer, gradients = OPTIMIZERS[name]([new]), _draw(3, 3, 2)
    held.step(*gradients)
    stepped(optimizer, new, [gradient[1:2] for gradient in gradients])
    torch.testing.assert_close(held.value[1:2], new.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameter_without_an_update_stays_one_piece(name: str) -> None:
    held = Pieced(OPTIMIZERS[name], torch.randn(SHAPE, dtype=torch.float64))
    held.follow(held.set_value(GROWN))
    assert held.boxes == [()]
    plain = Pieced(OPTIMIZERS[name], held.value)
    for own in (held, plain):
        own.step(torch.ones(5, 6, dtype=torch.float64))
    assert torch.equal(held.value, plain.value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_memory_is_of_what_begins_anew_alone(name: str) -> None:
    held = _trained(name, *SHAPE)
    held.follow(held.set_value(GROWN))
    held.step(*_draw(1, 5, 6))
    keeps = copy.deepcopy(held)
    keeps._load(held.value, held.pieces)
    value, anew = torch.randn_like(held.value), torch.rand(held.value.shape) < 0.5
    held.follow(TensorChange(value=value, memory="zero moments", anew=anew))
    keeps.follow(TensorChange(value=value, anew=anew))
    assert held.boxes == keeps.boxes
    for own, old in zip(held.pieces, keeps.pieces, strict=True):
        forgotten = own.piece.of(anew)
        for key, found in own.state.items():
            if found.shape != forgotten.shape:
                assert torch.equal(found, old.state[key]), "counts go on"
                continue
            start = own.piece.of(held.value) if key == "ax" else {"sum": 0.1, "step_size": 0.1}.get(key, 0.0)
            start = torch.as_tensor(start, dtype=found.dtype)
            assert torch.equal(found, torch.where(forgotten, start, old.state[key]))
    with pytest.raises(ValueError, match="can begin anew only with all of it"):
        held.follow(TensorChange(value=value, memory="zero moments and step", anew=anew))
    with pytest.raises(ValueError, match="must have its new shape"):
        held.follow(TensorChange(value=value, anew=anew[:2]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_memory_is_of_what_was_there(name: str) -> None:
    zeroed, forgotten = (_trained(name, *SHAPE) for _ in range(2))
    forgotten.follow(TensorChange(axes=GROWN.axes, memory="zero moments and step"))
    plain = Pieced(OPTIMIZERS[name], forgotten.value)
    for own in (forgotten, plain):
        own.step(torch.ones(5, 6, dtype=torch.float64))
    assert forgotten.boxes == [()] and torch.equal(forgotten.value, plain.value), "as on its first day"
    before = zeroed.pieces[0].state
    zeroed.follow(TensorChange(value=torch.ones(SHAPE), memory="zero moments"))
    (whole,) = zeroed.pieces
    assert whole.state.keys() == before.keys()
    for key, value in whole.state.items():
        start = {"sum": 0.1, "step_size": 0.1, "ax": 1.0}.get(key, 0.0)
        assert torch.equal(value, before[key] if value.dim() == 0 else torch.full_like(value, start))


def _any_origin(num_old: int, random: Random) -> Origin:
    places = range(num_old)
    match random.randrange(5):
        case 0:
            return Origin.identity(num_old)
        case 1:
            return Origin.insert(random.sample(range(num_old + 2), 2), num_old=num_old)
        case 2:
            return Origin.keep(random.sample(places, random.randint(1, num_old)), num_old=num_old)
        case 3:
            return Origin.duplicate(random.choices(places, k=2), num_old=num_old)
        case _:
            anew = tuple(NEW if random.random() < 0.4 else place for place in places)
            return Origin(num_old=num_old, sources=anew, scale=(1.0,) * num_old)


@settings(max_examples=25, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_any_sequence_of_changes_is_an_adam_with_a_count_per_element(random: Random) -> None:
    torch.manual_seed(random.randrange(1000))
    held = Pieced(partial(optim.Adam, lr=0.01, betas=(0.5, 0.8)), torch.randn(2, 3, dtype=torch.float64))
    truth = PerElementAdam(held.value)
    for _ in range(4):
        for gradient in _draw(random.randrange(3), *held.value.shape):
            held.step(gradient)
            truth.step(gradient, lr=0.01, betas=(0.5, 0.8))
        torch.testing.assert_close(held.value, truth.value, rtol=1e-11, atol=1e-13)
        axes = tuple(
            AxisChange(
                axis=axis, origin=_any_origin(size, random), side="producer" if random.random() < 0.5 else "consumer"
            )
            for axis, size in enumerate(held.value.shape)
        )
        memory: Memory = random.choice(["keep", "keep", "zero moments", "zero moments and step"])
        held.follow(held.set_value(TensorChange(axes=axes, memory=memory)))
        truth.follow((axes[0], axes[1]), memory, held.value)
        assert sum(piece.of(held.value).numel() for piece in held.names) == held.value.numel()
    held.step(torch.ones_like(held.value))
    truth.step(torch.ones_like(held.value), lr=0.01, betas=(0.5, 0.8))
    torch.testing.assert_close(held.value, truth.value, rtol=1e-11, atol=1e-13)


class _Strange(optim.SGD):
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["fisher"] = torch.ones(4, 4)


def _follow(pieces: list[PieceState], change: TensorChange = GROWN, **other: Any) -> list[PieceState]:
    optimizer = optim.Adam([nn.Parameter(torch.ones(SHAPE))])
    given: dict[str, Any] = {"shape": SHAPE, "value": torch.ones(5, 6), "optimizer": optimizer}
    given |= {"group": optimizer.param_groups[0]} | other
    return follow_pieces(pieces, change, **given)


WHOLE = [PieceState(piece=Piece("2.weight"), state={})]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optim.LBFGS, "element by element, got LBFGS. Use one of ASGD, Adadelta, .* SGD"),
        (optim.Adafactor, "got Adafactor"),
        (_Strange, r"_Strange keeps 'fisher' of shape \(4, 4\) for 2.weight of shape \(3, 4\)"),
    ],
)
def test_state_that_cannot_be_mapped_is_refused_by_name(optimizer: Any, message: str) -> None:
    parameter = nn.Parameter(torch.ones(SHAPE))
    made = optimizer([parameter])
    parameter.grad = torch.ones(SHAPE)
    made.step(lambda: torch.zeros(()))
    pieces = [PieceState(piece=Piece("2.weight"), state=made.state[parameter])]
    with pytest.raises(TypeError, match=message):
        _follow(pieces, optimizer=made, group=made.param_groups[0])


def test_what_does_not_fit_is_refused_by_name() -> None:
    parts = [PieceState(piece=Piece("2.weight", ((0, stop),)), state={}) for stop in (2, 3)]
    with pytest.raises(ValueError, match=r"of 2\.weight \(3, 4\) the pieces 2\.weight\[0:2\] leave some out"):
        _follow(parts[:1])
    with pytest.raises(ValueError, match=r"pieces 2\.weight\[0:2\], 2\.weight\[0:3\] hold some twice"):
        _follow(parts)
    with pytest.raises(ValueError, match=r"2\.weight\[0:4\] is a box of \(3, 4\)"):
        _follow([PieceState(piece=Piece("2.weight", ((0, 4),)), state={})])
    with pytest.raises(ValueError, match=r"must be of one parameter, got 1\.bias, 2\.weight"):
        _follow([*WHOLE, PieceState(piece=Piece("1.bias"), state={})])
    with pytest.raises(ValueError, match=r"2\.weight \(3, 4\) becomes \(5, 6\) .* its new value is \(6, 6\)"):
        _follow(WHOLE, value=torch.ones(6, 6))
    axis = AxisChange(axis=2, origin=Origin.identity(3), side="producer")
    with pytest.raises(ValueError, match=r"2\.weight cannot change as planned: there is no axis 2"):
        _follow(WHOLE, TensorChange(axes=(axis,)))
    twice = (GROWN.axes[0], AxisChange(axis=-2, origin=Origin.identity(3), side="producer"))
    with pytest.raises(ValueError, match=r"changes once in an event, got changes of the axes \[0, 0\]"):
        _follow(WHOLE, TensorChange(axes=twice))
    with pytest.raises(ValueError, match="zero moments and step; got 'reset'"):
        _follow(WHOLE, TensorChange(memory="reset"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"2\.weight is complex"):
        _follow(WHOLE, value=torch.ones(5, 6, dtype=torch.complex64))
    stale = [PieceState(piece=Piece("2.weight"), state={"exp_avg": torch.ones(3, 3)})]
    with pytest.raises(ValueError, match=r"exp_avg of 2\.weight must have its parameter's shape \(3, 4\)"):
        _follow(stale)
    counts = [PieceState(piece=Piece("2.weight"), state={"step": torch.ones(SHAPE)})]
    with pytest.raises(TypeError, match=r"keeps 'step' for 2\.weight, .* nor one number for all of its elements"):
        _follow(counts)
    with pytest.raises(ValueError, match=r"tolerance of a bias correction must lie in \[0, 1\), got 1"):
        merge_mature(WHOLE, value=torch.ones(SHAPE), optimizer=optim.Adam([torch.ones(1)]), group={}, tolerance=1)


def test_piece_that_a_fused_kernel_would_misread_is_refused() -> None:
    parameter = nn.Parameter(torch.ones(SHAPE))
    made = optim.Adam([parameter], fused=True)
    parameter.grad = torch.ones(SHAPE)
    made.step()
    pieces, group = [PieceState(piece=Piece("2.weight"), state=made.state[parameter])], made.param_groups[0]
    with pytest.raises(ValueError, match=r"would misread 2\.weight.* use fused=False"):
        _follow(pieces, optimizer=made, group=group)
    old, new = _follow(pieces, _rows(2, 3), value=torch.ones(5, 4), optimizer=made, group=group)
    assert (old.piece.box, new.piece.box) == (((0, 3),), ((3, 5),))
    assert not new.state
