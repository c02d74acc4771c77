"""Are the parts of a network written down, and refused where they cannot be?"""

from __future__ import annotations

import json

import pytest

from dni import Component, Insertion, edits_from_json, edits_to_json


def test_parts_are_written_down_in_their_order() -> None:
    edits = (
        Component(layer="2", units=4, activation="gelu", alpha=0.5),
        Insertion(behind="1", units=3, kernel=(3, 3)),
        Component(layer="0", units=1, kernel=(5,)),
    )
    assert edits_from_json(json.loads(json.dumps(edits_to_json(edits)))) == edits


def test_parts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="one unit or more, got 0"):
        Component(layer="2", units=0)
    with pytest.raises(ValueError, match=r"one of relu, gelu, .*, got 'maxout'"):
        Component(layer="2", units=1, activation="maxout")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got 2"):
        Component(layer="2", units=1, alpha=2)
    with pytest.raises(ValueError, match=r"up to three sizes of 1 or more, got \(0,\)"):
        Component(layer="2", units=1, kernel=(0,))
    with pytest.raises(ValueError, match=r"must be odd, got \(3, 4\)"):
        Insertion(behind="1", units=1, kernel=(3, 4))
    with pytest.raises(ValueError, match="a component or an insertion, got 'shortcut'"):
        edits_from_json([{"kind": "shortcut", "kernel": []}])
