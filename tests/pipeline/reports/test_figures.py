"""Does a picture show what was measured, whatever it is called and whenever that was?"""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from pipeline.reports.figures import dots_figure, group_line, map_figure
from pipeline.reports.series import Band


def _band(points: dict[float, float]) -> Band:
    x, mean = np.array(list(points), dtype=float), np.array(list(points.values()), dtype=float)
    return Band(x=x, mean=mean, deviation=np.full(len(x), np.nan), counts=np.ones(len(x)))


def _shown(bands: list[Band], *, are_levels: bool = False) -> tuple[list[float], list[list[float]]]:
    """Where the columns of a map begin and end, and what they hold."""
    lines = [group_line(place, str(place), band, is_level=are_levels) for place, band in enumerate(bands)]
    mesh = map_figure(lines, title="", x_label="step").axes[0].collections[0]
    assert isinstance(mesh, QuadMesh)
    return list(mesh.get_coordinates()[0, :, 0]), np.ma.asarray(mesh.get_array()).filled(np.nan).tolist()


def test_map_of_levels_holds_each_until_the_next() -> None:
    """In 0.3, a width of 64 until step 900 and of 32 after was 46.2 at step 500."""
    edges, rows = _shown([_band({0: 64, 900: 32, 1800: 32}), _band({0: 8, 1800: 8})], are_levels=True)
    assert edges == [0, 900, 1800, 1830] and rows == [[64, 32, 32], [8, 8, 8]]


def test_map_of_few_steps_has_each_as_a_column_and_blanks_where_nothing_was_measured() -> None:
    """In 0.3, columns were evenly spaced, and what was measured at irregular checkpoints was in none of them."""
    edges, rows = _shown([_band({0: 1, 10: 9, 1000: 2}), _band({0: 3, 1000: 4})])
    assert edges == [-0.5, 0.5, 1.5, 2.5]
    np.testing.assert_array_equal(rows, [[1, 9, 2], [3, np.nan, 4]])


def test_map_of_many_steps_has_sixty_columns() -> None:
    edges, rows = _shown([_band({step: step for step in range(100)})] * 2)
    assert len(edges) == 61 and rows[0] == pytest.approx(np.linspace(0, 99, 60).tolist())


def test_map_of_one_step_is_one_column() -> None:
    for are_levels in (False, True):
        edges, rows = _shown([_band({7: 1}), _band({7: 2})], are_levels=are_levels)
        assert len(edges) == 2 and rows == [[1], [2]]


def test_dots_of_long_names_have_room_beside_the_names() -> None:
    """In 0.3, a name of 45 characters took more than the whole picture, and there was no report."""
    figure = dots_figure(["stage 0 " + "a" * 60, "short"], [1.0, 2.0], ["#000000", "#000000"], title="trace")
    axes = figure.axes[0]
    assert axes.get_position().width > 0.3
    assert [label.get_text() for label in axes.get_yticklabels()] == ["stage 0 …" + "a" * 9, "short"]
