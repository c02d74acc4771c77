"""Is a run's folder new, and does it say what it takes to run the same again?"""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigurationError
from pipeline.records.folder import RunRecord, choose_folder, commit, make_folder, read_record

RECORD = RunRecord(
    config="path/to/config.py:function",
    options=["--steps", "3"],
    sha256="0" * 64,
    num_threads=2,
    at=["3", "6"],
    settings={"steps": 3, "schedule": len},
)


def test_name_is_the_folder(tmp_path: Path) -> None:
    assert choose_folder(config="x.py:f", name="mine", runs_dir=str(tmp_path)) == tmp_path / "mine"
    assert list(tmp_path.iterdir()) == [], "choosing makes nothing"


def test_name_that_exists_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigurationError, match=r"mine exists already.*another --name.*dni resume .*mine"):
        choose_folder(config="x.py:f", name="mine", runs_dir=str(tmp_path))


def test_folder_without_a_name_is_called_after_configuration_and_utc_time(tmp_path: Path) -> None:
    found = [choose_folder(config=config, name="", runs_dir=str(tmp_path)) for config in ("a/b.py:wide", "quickstart")]
    assert re.fullmatch(r"wide-\d{8}-\d{6}", found[0].name) and re.fullmatch(r"quickstart-\d{8}-\d{6}", found[1].name)


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    folders = []
    for _ in range(4):
        folders.append(choose_folder(config="quickstart", name="", runs_dir=str(tmp_path / "runs")))
        make_folder(folders[-1], RECORD)
    assert len(set(folders)) == 4


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    make_folder(tmp_path / "runs" / "run", RECORD)
    found = read_record(tmp_path / "runs" / "run")
    assert (found.config, found.options, found.sha256) == (RECORD.config, RECORD.options, RECORD.sha256)
    assert (found.num_threads, found.at, found.settings["steps"]) == (2, ["3", "6"], 3)
    content = json.loads((tmp_path / "runs" / "run" / "config.json").read_text())
    assert content["versions"] == {"python": platform.python_version(), "torch": torch.__version__}
    assert content["machine"]["platform"] and "commit" in content


@pytest.mark.parametrize("content", [None, "{", "[]", '{"config": "quickstart"}'])
def test_folder_that_is_no_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"is not a run's folder|config\.json cannot be read"):
        read_record(tmp_path)


def test_commit_is_the_checked_out_one_and_none_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() is None
    monkeypatch.setenv("PATH", "")
    assert commit() is None, "a machine without git can run, too"
