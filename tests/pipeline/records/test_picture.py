"""Does the picture of a timeline show the operations of all the stages it should?"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.records.picture import check_picture, choose_rows, draw_timeline
from pipeline.stages.trace import Event


def test_few_stages_are_all_drawn_and_of_many_some_at_equal_distances() -> None:
    assert choose_rows(1) == [0] and choose_rows(5) == [0, 1, 2, 3, 4]
    rows = choose_rows(10_000)
    assert len(rows) == 48 and rows[0] == 0 and rows[-1] == 9999
    assert {b - a for a, b in pairwise(rows)} <= {212, 213}


def test_operations_that_begin_in_time_are_drawn(tmp_path: Path) -> None:
    events = {
        0: [Event("F", 0, 0.0, 1.0, 0, 0), Event("B", 0, 1.0, 3.0, 0, 0), Event("R", 1, 9.0, 10.0, 0, 0)],
        7: [Event("F", 0, 1.0, 2.0, 0, 0), Event("U", 0, 4.0, 4.1, 1, 0)],
    }
    path = tmp_path / "timeline.svg"
    draw_timeline(events, path, until_s=5.0, title="two of eight")
    text = path.read_text()
    drawn = {"forward": "#4477aa", "backward": "#ee6677", "update": "#222222"}
    assert all(text.count(f"fill: {color}") > 1 for color in drawn.values()), "bars and the legend's patch"
    assert "#66ccee" not in text, "what begins too late is left out, and so is its line in the legend"


@pytest.mark.parametrize(("name", "message"), [("a.gif", "a picture ends in .png"), ("b/c.png", "there is no folder")])
def test_picture_that_cannot_be_written_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_picture(tmp_path / name)
