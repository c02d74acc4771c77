"""Are findings kept as they were?"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.records.findings import Curves, Matrix, Scalar, Surface, append_findings, read_findings

FINDINGS = [
    Scalar(tag="hessian/trace/0.weight", step=100, stage=0, value=0.1),
    Curves(tag="d", step=100, stage=1, x=[0.0, 1.0], x_label="a", y_label="b", curves={"c": [1.0, 2.0]}),
    Matrix(tag="m", step=100, stage=None, rows=["r"], columns=["c", "d"], values=[[1.0, 2.0]]),
    Surface(tag="s", step=100, stage=None, x=[0.0], y=[1.0], x_label="a", y_label="b", values=[[3.0]]),
]


def test_findings_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "findings" / "some.jsonl"
    for finding in FINDINGS:
        append_findings(path, [finding])
    assert read_findings(path) == FINDINGS


def test_a_last_line_that_is_not_whole_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    append_findings(path, FINDINGS)
    path.write_text(path.read_text()[:-5])
    assert read_findings(path) == FINDINGS[:-1]


def test_another_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"kind": "scalar"}\n')
    with pytest.raises(ConfigurationError, match="line 1 of"):
        read_findings(path)
