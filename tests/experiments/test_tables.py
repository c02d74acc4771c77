"""Does every experiment's README say what its results give?"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import experiments.readme

FOLDERS = sorted(path.parent.name for path in Path(experiments.readme.__file__).parent.glob("*/table.py"))


@pytest.mark.parametrize("name", FOLDERS)
def test_tables_in_the_readme_are_what_was_recorded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = importlib.import_module(f"experiments.{name}.table")
    assert (table.main(check=True), capsys.readouterr().out) == (0, "")
