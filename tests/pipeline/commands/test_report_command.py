"""Does `dni report` write where it says, and answer a mistake in one line?"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands.cli import main
from tests.pipeline.reports.folders import make_run


def _code(*words: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, words)])
    return ended.value.code


def test_report_of_one_run_is_written_into_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "one", num_stages=1)
    assert _code(run) == 0
    assert (run / "report" / "report.html").exists() and list((run / "report" / "pictures").glob("*.png"))
    assert str(run / "report" / "report.html") in capsys.readouterr().out


def test_mistakes_in_the_call_are_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "one")
    (tmp_path / "file").write_text("")
    for words, said in (
        ([tmp_path / "nowhere"], "there is no folder"),
        ([tmp_path], "is not a run's folder"),
        ([run, "--by", "colour"], "no run has a setting 'colour'"),
        ([run, "--out", tmp_path / "file"], "must be a folder"),
        ([], "name at least one run"),
    ):
        assert _code(*words) == 2
        answer = capsys.readouterr().err
        assert said in answer and "Traceback" not in answer


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert _code("--help") == 0
    assert "dni report runs/backprop-* runs/dni-* --out compared" in capsys.readouterr().out
