"""What does an experiment's table find wrong?"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

__all__ = ["check"]


def check(table: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that `table.py --check` prints of a folder; the exit code is 1 if there are any."""
    code = table.main(check=True, folder=folder)
    lines = capsys.readouterr().out.splitlines()
    assert code == (1 if lines else 0)
    return lines
