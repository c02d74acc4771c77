"""Do findings get onto TensorBoard, each once, where they belong?"""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipeline.errors import ConfigurationError
from pipeline.records.findings import Curves, Finding, Matrix, Scalar, Surface
from pipeline.records.publish import publish
from tests.pipeline.records.boards import Boards

TRACE = Scalar(tag="hessian/trace/0.weight", step=20, stage=0, value=2.5)
EARLIER = Scalar(tag="hessian/trace/0.weight", step=10, stage=0, value=1.5)
SIMILAR = Matrix(tag="representation/cka", step=20, stage=None, rows=["a"], columns=["b"], values=[[1.0]])


def _draw(finding: Curves | Matrix | Surface) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().set_title(finding.tag)
    return figure


def test_numbers_are_scalars_and_others_pictures_on_a_board_per_stage(tmp_path: Path) -> None:
    density = Curves(
        tag="hessian/density", step=20, stage=11, x=[0.0, 1.0], x_label="x", y_label="y", curves={"a": [0.0, 1.0]}
    )
    publish(tmp_path, [TRACE, SIMILAR, EARLIER, density], _draw)
    boards = Boards(tmp_path)
    assert set(boards.all) == {"findings/stage-00", "findings/stage-11", "findings/network"}
    assert boards.scalars("findings/stage-00") == {TRACE.tag: [(10, 1.5), (20, 2.5)]}
    (image,) = boards.all["findings/network"].Images("representation/cka")
    assert (image.step, image.width, image.height) == (20, 400, 200)
    assert boards.all["findings/stage-11"].Tags()["images"] == ["hessian/density"]
    assert "probe" in boards.description("findings/stage-00", TRACE.tag)


def test_publishing_again_replaces_the_family_and_leaves_others(tmp_path: Path) -> None:
    publish(tmp_path, [TRACE, SIMILAR], _draw)
    publish(tmp_path, [EARLIER, TRACE], _draw)
    boards = Boards(tmp_path)
    assert boards.scalars("findings/stage-00") == {TRACE.tag: [(10, 1.5), (20, 2.5)]}
    assert len(boards.all["findings/network"].Images("representation/cka")) == 1


@pytest.mark.parametrize("tag", ["trace", "/trace", "../trace", "hessian/", ""])
def test_a_tag_without_a_family_is_refused_and_nothing_is_written(tmp_path: Path, tag: str) -> None:
    findings: list[Finding] = [TRACE, Scalar(tag=tag, step=1, stage=2, value=0.0)]
    with pytest.raises(ConfigurationError, match=r"must be family/quantity, as hessian/trace, got .*step 1, stage 2"):
        publish(tmp_path, findings, _draw)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no folder .*gone; name the folder of a run"):
        publish(tmp_path / "gone", [TRACE], _draw)
