"""Can every finding be drawn, and read once it is?"""

from __future__ import annotations

import io
import math
from itertools import pairwise

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.records.drawings import draw
from pipeline.records.findings import Curves, Matrix, Surface

NAMES = [f"stage {index // 3}/layers.{index}.weight" for index in range(42)]


def _drawn(finding: Curves | Matrix | Surface) -> Figure:
    figure = draw(finding)
    figure.savefig(io.BytesIO(), dpi=600 / figure.get_size_inches()[0])  # lays it out; whatever warns fails
    return figure


def _texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def _curves(curves: dict[str, list[float]]) -> Curves:
    return Curves(
        tag="landscape/line", step=1200, stage=1, x=[-1.0, 0.0, 1.0], x_label="step size", y_label="loss", curves=curves
    )


def test_matrix_of_42_names_is_600_pixels_wide_and_its_names_do_not_overlap() -> None:
    values = [[math.exp(-abs(row - column)) for column in range(42)] for row in range(42)]
    figure = _drawn(Matrix(tag="curvature/interaction", step=3, stage=None, rows=NAMES, columns=NAMES, values=values))
    axes = figure.axes[0]
    for labels, direction in ((axes.get_yticklabels(), "y"), (axes.get_xticklabels(), "x")):
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: getattr(box, f"{direction}0"))
        overlaps = [getattr(a, f"{direction}1") - getattr(b, f"{direction}0") for a, b in pairwise(boxes)]
        assert max(overlaps) < 0.35 * getattr(boxes[0], "height" if direction == "y" else "width")
        assert all(box.x0 >= 0 and box.y0 >= 0 for box in boxes)
    assert figure.get_size_inches()[0] == pytest.approx(7.2)
    assert f"{NAMES[41]}  41" in _texts(figure)


def test_small_matrix_has_its_numbers_written_in_and_leaves_out_what_is_not_finite() -> None:
    names = ["stage 0", "stage 1"]
    values = [[1.0, 0.125], [math.nan, -0.5]]
    figure = _drawn(Matrix(tag="representations/rsa", step=3, stage=None, rows=names, columns=names, values=values))
    assert {"1", "0.12", "-0.5"} <= set(_texts(figure))
    assert "nan" not in _texts(figure)


def test_curves_name_the_axes_and_each_curve_and_say_which_stage_at_which_step() -> None:
    texts = _texts(_drawn(_curves({"true loss": [1.0, 0.0, 1.0], "implied loss": [2.0, math.inf, 1.0]})))
    assert {"step size", "loss", "true loss", "implied loss", "landscape/line, stage 1, step 1,200"} <= set(texts)


def test_many_curves_are_told_apart_by_colour_and_line() -> None:
    figure = _drawn(_curves({name: [float(index), 0.0, 1.0] for index, name in enumerate(NAMES[:16])}))
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 16


@pytest.mark.parametrize(
    "values", [[[0.5, 0.25], [1.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]], [[math.nan, math.nan], [math.nan, math.nan]]]
)
def test_surface_is_drawn_also_where_it_is_flat_or_unknown(values: list[list[float]]) -> None:
    surface = Surface(
        tag="landscape/plane", step=3, stage=None, x=[-1.0, 1.0], y=[-1.0, 1.0], x_label="a", y_label="b", values=values
    )
    assert {"a", "b"} <= set(_texts(_drawn(surface)))


def test_logarithm_of_what_has_no_positive_value_is_not_asked_for() -> None:
    finding = Curves(
        tag="hessian/density", step=0, stage=0, x=[0.0, 1.0], x_label="x", y_label="y", curves={"a": [0.0, 0.0]},
        y_scale="log",
    )  # fmt: skip
    assert _drawn(finding).axes[0].get_yscale() == "linear"
