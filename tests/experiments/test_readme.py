"""Are the generated parts of a README put in their places?"""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.readme import rebuild, report


def test_parts_are_written_between_their_markers_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Title\n<!-- a: begin --><!-- a: end -->\nmine\n<!-- b: begin -->\nold\n<!-- b: end -->\n")
    parts = {"a": "one\n\ntwo\n", "b": "new"}
    wrong = rebuild(path, parts, check=True)
    assert [line.split("the part ")[1][:3] for line in wrong] == ["'a'", "'b'"] and "old" in path.read_text()
    assert rebuild(path, parts, check=False) == rebuild(path, parts, check=True) == []
    assert path.read_text() == (
        "# Title\n<!-- a: begin -->\none\n\ntwo\n<!-- a: end -->\nmine\n<!-- b: begin -->\nnew\n<!-- b: end -->\n"
    )


def test_readme_without_markers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Title\n<!-- a: end -->\n")
    with pytest.raises(ValueError, match="the README must hold the lines '<!-- a: begin -->'"):
        rebuild(path, {"a": "text"}, check=False)


def test_what_is_wrong_is_printed_and_decides_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert (report([]), report(["one", "two"])) == (0, 1)
    assert capsys.readouterr().out == "one\ntwo\n"
