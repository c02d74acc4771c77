"""Are runs put together that differ only in their seed, and told apart by what else they differ in?"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.reports.groups import differing, flat_settings, group_runs
from pipeline.reports.reading import Run, read_run
from tests.pipeline.reports.folders import make_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    made = [(0, 0.1, "a.py:one"), (0, 0.2, "a.py:one"), (1, 0.1, "a.py:one"), (0, 0.1, "a.py:two")]
    return [read_run(make_run(tmp_path / str(n), seed=s, lr=lr, config=c)) for n, (s, lr, c) in enumerate(made)]


def test_seeds_are_together_and_other_settings_apart(runs: list[Run]) -> None:
    groups = group_runs(runs)
    assert [[run.name for run in group.runs] for group in groups] == [["0", "2"], ["1"], ["3"]]
    assert differing(groups) == ["config", "optimizer.lr"]


def test_label_names_only_what_is_needed_to_tell_groups_apart(runs: list[Run]) -> None:
    assert [group.label for group in group_runs(runs)] == ["one, optimizer.lr 0.1", "one, optimizer.lr 0.2", "two"]
    assert [group.label for group in group_runs(runs[:1])] == ["one"]


def test_by_asks_for_some_settings_only(runs: list[Run]) -> None:
    groups = group_runs(runs, by=["optimizer"])
    assert [[run.name for run in group.runs] for group in groups] == [["0", "3", "2"], ["1"]]
    assert [group.label for group in groups] == ["optimizer.lr 0.1", "optimizer.lr 0.2"]


def test_unknown_setting_is_refused_and_known_ones_named(runs: list[Run]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"no run has a setting 'lr'; there are: clip_norm, config, .*optimizer.lr"
    ):
        group_runs(runs, by=["lr"])


def test_settings_say_neither_seed_nor_place_nor_address(runs: list[Run]) -> None:
    runs[0].record.settings["schedule"] = "<function warm_up at 0x7f00aa>"
    flat = flat_settings(runs[0])
    assert not {"seed", "name", "runs_dir"} & flat.keys()
    assert flat["schedule"] == "<function warm_up>" and flat["clip_norm"] == "inf"
