"""Do selectors name the parts of a network that they say, and refuse what is not there with a list of what is?"""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dni import (
    REST,
    Block,
    BlockCadence,
    Channels,
    Columns,
    Heads,
    Layer,
    Parameter,
    Periodic,
    Piece,
    Quadrants,
    Rows,
    Selector,
    Shapes,
    Slice,
    by_depth,
    split_in_blocks,
)

SHAPES: Shapes = {
    "body.0.weight": (8, 3, 3, 3),
    "body.0.bias": (8,),
    "body.1.weight": (6, 9),
    "attention.in_proj_weight": (12, 4),
    "attention.out_proj.weight": (4, 4),
    "scale": (),
}


def names(selector: Selector) -> list[tuple[str, list[str]]]:
    return [(block.name, [piece.name for piece in block.pieces]) for block in selector.select(SHAPES)]


def test_layer_is_one_block_of_all_its_parameters_those_of_inner_layers_included() -> None:
    assert names(Layer("body.0")) == [("body.0", ["body.0.weight", "body.0.bias"])]
    assert names(Layer("body")) == [("body", ["body.0.weight", "body.0.bias", "body.1.weight"])]
    assert names(Parameter("scale")) == [("scale", ["scale"])]


def test_parts_of_a_weight_are_blocks_as_equal_as_can_be() -> None:
    def single(*found: str) -> list[tuple[str, list[str]]]:
        return [(name, [name]) for name in found]

    assert names(Rows("body.1.weight", 2)) == single("body.1.weight[0:3]", "body.1.weight[3:6]")
    assert names(Columns("body.1.weight", 2)) == single("body.1.weight[0:6,0:4]", "body.1.weight[0:6,4:9]")
    quarters = "body.1.weight[0:3,0:4] body.1.weight[0:3,4:9] body.1.weight[3:6,0:4] body.1.weight[3:6,4:9]"
    assert names(Quadrants("body.1.weight")) == single(*quarters.split())
    assert names(Slice("body.1.weight", ((1, 2), (0, 9)))) == single("body.1.weight[1:2,0:9]")
    assert names(Slice("body.1.weight", ((0, 6),))) == single("body.1.weight"), "all of it is the parameter itself"


def test_channels_and_heads_hold_a_piece_of_each_parameter_that_they_lie_in() -> None:
    first, second = Channels("body.0", 2).select(SHAPES)
    assert first.name == "body.0[0:4]" and first.pieces == (
        Piece("body.0.weight", ((0, 4),)),
        Piece("body.0.bias", ((0, 4),)),
    )
    assert [piece.name for piece in second.pieces] == ["body.0.weight[4:8]", "body.0.bias[4:8]"]
    packed = [f"attention.in_proj_weight[{cut}]" for cut in ("2:4", "6:8", "10:12")]
    assert names(Heads("attention.in_proj_weight", 2, packed=3))[1] == ("attention.in_proj_weight[head 1]", packed)
    assert names(Heads("attention.out_proj.weight", 2, axis=1))[0][1] == ["attention.out_proj.weight[0:4,0:2]"]


def test_only_what_is_one_stretch_of_memory_is_contiguous() -> None:
    rows, columns = (
        selector.select(SHAPES)[0].pieces[0] for selector in (Rows("body.1.weight"), Columns("body.1.weight"))
    )
    assert rows.is_contiguous((6, 9)) and not columns.is_contiguous((6, 9))


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (Layer("head"), r"no layer .* 'head'; there are body, body\.0, body\.1, attention, attention\.out_proj"),
        (Layer("bod"), "no layer"),
        (Parameter("body.2.weight"), r"no parameter .* 'body\.2\.weight'; there are body\.0\.weight, body\.0\.bias"),
        (Rows("body"), "no parameter"),
        (Rows("body.1.weight", 7), r"axis 0 of body\.1\.weight, of shape \(6, 9\), cannot be cut into 7 parts"),
        (Rows("body.1.weight", 0), "cannot be cut into 0"),
        (Columns("body.0.bias"), "axis 1"),
        (Quadrants("scale"), "axis 0"),
        (Slice("body.1.weight", ((0, 7),)), r"within its parameter .* body\.1\.weight\[0:7\] of shape \(6, 9\)"),
        (Slice("body.1.weight", ((2, 2),)), "hold something"),
        (Slice("body.1.weight", ((-1, 2),)), "within"),
        (Slice("body.0.bias", ((0, 8), (0, 1))), "within"),
        (Heads("attention.out_proj.weight", 3), "3 equal heads must fit"),
        (Channels("body", 2), r"first axis of every parameter of body, but those have .* body\.1\.weight \(6, 9\)"),
    ],
)
def test_what_is_not_there_is_refused(selector: Selector, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selector.select(SHAPES)


def test_error_lists_no_more_names_than_can_be_read() -> None:
    with pytest.raises(ValueError, match="w39, and 60 more"):
        Parameter("x").select({f"w{index}": (1,) for index in range(100)})


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([Quadrants("body.1.weight"), Slice("body.1.weight", ((2, 4), (8, 9)))], r"\[0:3,4:9\] .* share elements"),
        ([Layer("body"), Parameter("body.0.bias")], "block body.* and body.0.bias"),
        ([Rows("body.1.weight"), Parameter("body.1.weight")], "overlap"),
    ],
)
def test_blocks_that_overlap_are_refused(others: list[Selector], message: str) -> None:
    blocks = [block for selector in others for block in selector.select(SHAPES)]
    with pytest.raises(ValueError, match=message):
        split_in_blocks(SHAPES, blocks)


def test_block_that_is_called_as_the_rest_is_refused() -> None:
    with pytest.raises(ValueError, match="'rest' again"):
        split_in_blocks({"a": (1,)}, [Block(REST, (Piece("a"),))])


@given(st.data())
def test_blocks_and_the_rest_hold_every_element_once(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    shapes = {"a": shape, "b": (2,)}
    blocks: list[Block] = []
    for _ in range(data.draw(st.integers(0, 3))):
        axes = data.draw(st.integers(1, len(shape)))
        ends = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape[:axes]]
        block = Slice("a", tuple((a, b) for a, b in ends)).select(shapes)[0]
        try:
            split_in_blocks(shapes, [*blocks, block])
        except ValueError:
            continue
        blocks.append(block)
    count = torch.zeros(shape)
    pieces = [*split_in_blocks(shapes, blocks).pieces, *(piece for block in blocks for piece in block.pieces)]
    for piece in pieces:
        if piece.parameter == "a":
            part = piece.of(count)
            assert part.numel() == prod(part.shape) > 0
            part += 1
    assert torch.equal(count, torch.ones(shape)) and Piece("b") in pieces


def test_cadences_are_one_for_all_blocks_or_one_for_each() -> None:
    paired = BlockCadence(Rows("body.1.weight", 2), (Periodic(2), Periodic(5))).pair(SHAPES)
    assert [cadence for _, cadence in paired] == [Periodic(2), Periodic(5)]
    with pytest.raises(ValueError, match=r"names 4 blocks .* got 3 cadences"):
        BlockCadence(Quadrants("body.1.weight"), (Periodic(),) * 3).pair(SHAPES)
    with pytest.raises(TypeError, match="must be a Cadence"):
        BlockCadence(Layer("body"), 4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="named by a selector"):
        BlockCadence("body", Periodic())  # type: ignore[arg-type]


def test_periods_grow_with_depth_in_either_direction() -> None:
    def periods(**more: object) -> list[object]:
        return [each.cadence for each in by_depth(["a", "b", Parameter("c")], longest=9, **more)]  # type: ignore[arg-type]

    assert periods() == [Periodic(9), Periodic(3), Periodic(1)]
    assert periods(fastest="input", growth="linear", shortest=3) == [Periodic(3), Periodic(6), Periodic(9)]
    assert [each.selector for each in by_depth(["a", Parameter("c")], longest=2)] == [Layer("a"), Parameter("c")]
    assert by_depth(["a"], longest=7)[0].cadence == Periodic(1)
    with pytest.raises(ValueError, match="shortest <= longest"):
        by_depth(["a"], longest=0)
