"""Is every number of the parameters in exactly one subset?"""

from __future__ import annotations

import pytest
import torch

from dni import Block, ParameterPartition, Piece, Quadrants, Rows

SHAPES = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}


def test_partitions_by_size() -> None:
    assert ParameterPartition.as_one(SHAPES).names == ("all",)
    assert ParameterPartition.by_tensor(SHAPES).names == tuple(SHAPES)
    assert ParameterPartition.by_layer(SHAPES).names == ("0", "2")
    assert (
        ParameterPartition.by_name(SHAPES, {"b": ["0.bias", "2.bias"], "w": ["2.weight", "0.weight"]}).num_subsets == 2
    )
    assert ParameterPartition.by_name(SHAPES, {"stage 0": ["0"], "stage 1": ["2"]}).names == ("stage 0", "stage 1")
    assert ParameterPartition.by_selectors(SHAPES, Quadrants("0.weight")).num_subsets == 5
    assert ParameterPartition.by_number(SHAPES).num_subsets == 26


def test_value_of_a_subset_reaches_exactly_its_numbers() -> None:
    partition = ParameterPartition.by_selectors(SHAPES, Rows("0.weight"))
    spread = partition.spread(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(spread["0.weight"], torch.tensor([1.0, 1.0, 2.0, 2.0])[:, None].expand(4, 3))
    assert [spread[name].shape for name in ("0.bias", "2.weight")] == [(), ()]
    assert spread["2.bias"] == 3
    assert [(at, piece.name) for at, piece in partition.pieces_of("0.weight")] == [
        (0, "0.weight[0:2]"),
        (1, "0.weight[2:4]"),
    ]


def test_subsets_that_stand_still_are_found() -> None:
    partition = ParameterPartition.by_selectors(SHAPES, Rows("0.weight"))
    direction = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    assert partition.still(direction) == [0, 1, 2]
    direction["0.weight"][3, 1] = 1
    assert partition.still(direction) == [0, 2]
    direction["2.bias"][1] = 1
    assert partition.still(direction) == [0]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ((Block("a", (Piece("0.weight"), Piece("0.bias"), Piece("2.weight"))),), r"all of 2 numbers of 2\.bias"),
        (tuple(Block(at, tuple(map(Piece, SHAPES))) for at in "ab"), r"0\.weight of 'b' is in 'a' too"),
        ((Block("a", (*map(Piece, SHAPES), Piece("4.weight"))),), r"'a' names '4\.weight'"),
        ((Block("a", tuple(map(Piece, SHAPES))), Block("a", ())), "'a' more than once"),
        ((Block("a", tuple(map(Piece, SHAPES))), Block("b", ())), "'b' is empty"),
        (
            (Block("a", (Piece("0.weight", ((0, 1),)), *(Piece(name) for name in list(SHAPES)[1:]))),),
            r"9 of 12 numbers of 0\.weight",
        ),
        ((Block("a", (*map(Piece, SHAPES), Piece("0.bias", ((0, 9),)))),), r"0\.bias\[0:9\]"),
    ],
)
def test_partition_that_misses_or_repeats_is_refused_by_name(blocks: tuple[Block, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParameterPartition(shapes=SHAPES, blocks=blocks)


def test_name_of_nothing_and_a_direction_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="'7', which is neither"):
        ParameterPartition.by_name(SHAPES, {"a": ["0", "2", "7"]})
    partition = ParameterPartition.by_layer(SHAPES)
    with pytest.raises(ValueError, match=r"missing 2\.bias; beyond them x"):
        partition.check("the direction", {**{name: torch.zeros(1) for name in list(SHAPES)[:3]}, "x": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"0\.weight must be \(4, 3\)"):
        partition.check("the direction", {name: torch.zeros(1) for name in SHAPES})
