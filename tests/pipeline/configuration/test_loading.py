"""Is the configuration found that the word on the command line means?"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from pipeline.configuration.config import Config
from pipeline.configuration.loading import BUILT_IN, find_config, fingerprint
from pipeline.errors import ConfigurationError

FILE = """
from dataclasses import dataclass, replace

from beside import STEPS
from pipeline.configuration.quickstart import quickstart


@dataclass
class Own:
    x: int = 1


def few() -> object:
    return replace(quickstart(), steps=STEPS)


def number() -> int:
    return 3


def breaks() -> None:
    raise ValueError("width must be even, got 3")


def _hidden() -> None:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("STEPS = 17\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return tmp_path


def test_built_in_configuration_is_found_by_its_name() -> None:
    assert "quickstart" in BUILT_IN
    assert isinstance(find_config("quickstart"), Config)


def test_configuration_is_found_by_file_and_function_and_may_import_what_lies_beside_us(folder: Path) -> None:
    assert find_config("config.py:few").steps == 17
    assert find_config(f"{folder}/config.py:few").steps == 17


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("quikstart", r"no built-in configuration 'quikstart'; there are: quickstart\. .*path/to/config\.py:function"),
        ("nowhere.py:few", r"no file nowhere\.py \(looked from /"),
        ("config.py:fw", r"config\.py has no function 'fw'; it has: Own, breaks, few, number\."),
        ("config.py:FILE", "has no function 'FILE'"),
        ("config.py:number", r"config\.py:number must return a pipeline\.Config, it returned int"),
        ("config.py:breaks", r"config\.py:breaks: width must be even, got 3"),
    ],
)
def test_what_is_not_there_or_not_a_configuration_is_refused(folder: Path, reference: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        find_config(reference)


def test_fingerprint_is_that_of_the_file(folder: Path) -> None:
    assert fingerprint("config.py:few") == hashlib.sha256(FILE.encode()).hexdigest()
    import pipeline.configuration.quickstart as module

    assert fingerprint("quickstart") == hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
