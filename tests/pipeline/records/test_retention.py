"""Are the newest checkpoints and the best one kept, the others removed, and is there always one to go on from?"""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CheckpointError
from pipeline.records.checkpoint import latest, set_aside_after
from pipeline.records.durable import make_folder_durable, write_file
from pipeline.records.manifest import Manifest, checkpoint_folder, find_folders, stage_file, write_manifest
from pipeline.records.retention import Retention, best


def _save(checkpoints: Path, step: int, *, finish: bool = True) -> None:
    """A checkpoint of one stage, or half of one."""
    folder = checkpoint_folder(checkpoints, step)
    make_folder_durable(folder)
    digest = write_file(folder / stage_file(0), lambda file: file.write(b"weights"))
    files = {stage_file(0): digest}
    if finish:
        write_manifest(checkpoints, Manifest(step=step, num_stages=1, exact=True, finished=False, files=files))


def _retention(checkpoints: Path, *, keep_last: int = 2, keep_best: bool = True, start: int = 0) -> Retention:
    return Retention(checkpoints, keep_last=keep_last, keep_best=keep_best, start=start)


def _pass(retention: Retention, checkpoints: Path, step: int, loss: float | None) -> None:
    """A run comes through a step: saves, and evaluates if a loss is given."""
    _save(checkpoints, step)
    retention.whole(step)
    if loss is not None:
        retention.evaluated(step, {"test_loss": loss})


def _steps(checkpoints: Path) -> list[int]:
    return [step for step, _ in find_folders(checkpoints, "step", "aside")]


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    retention = _retention(tmp_path)
    seen = []
    for step, loss in ((1, 5.0), (2, 3.0), (3, 4.0), (4, 3.5), (5, 2.0), (6, None), (7, None)):
        _pass(retention, tmp_path, step, loss)
        seen.append(_steps(tmp_path))
    assert seen == [[1], [1, 2], [2, 3], [2, 3, 4], [4, 5], [5, 6], [5, 6, 7]]
    folder, manifest, loss = best(tmp_path)
    assert (folder, manifest.step, loss) == (checkpoint_folder(tmp_path, 5), 5, 2.0)


def test_best_is_not_kept_if_nobody_asks_for_it(tmp_path: Path) -> None:
    retention = _retention(tmp_path, keep_best=False, keep_last=1)
    for step, loss in ((1, 1.0), (2, 3.0)):
        _pass(retention, tmp_path, step, loss)
    assert _steps(tmp_path) == [2] and best(tmp_path)[2] == 3.0


def test_nothing_goes_before_a_newer_checkpoint_is_whole(tmp_path: Path) -> None:
    retention = _retention(tmp_path, keep_last=1, keep_best=False)
    _pass(retention, tmp_path, 4, None)
    _save(tmp_path, 8, finish=False)
    retention.evaluated(4, {"test_loss": 1.0})
    assert _steps(tmp_path) == [4, 8]
    _save(tmp_path, 8)
    retention.whole(8)
    assert _steps(tmp_path) == [8]


def test_unfinished_and_damaged_checkpoints_go_once_the_run_has_passed_them(tmp_path: Path) -> None:
    for step in (4, 8):
        _save(tmp_path, step)
    _save(tmp_path, 2, finish=False)
    set_aside_after(tmp_path, 4)
    retention = _retention(tmp_path, start=4)
    _save(tmp_path, 6, finish=False)
    _pass(retention, tmp_path, 7, None)
    assert [folder.name for _, folder in find_folders(tmp_path, "step", "aside")] == [
        "step-000000004", "step-000000007", "aside-000000008",
    ]  # fmt: skip
    _pass(retention, tmp_path, 9, None)
    assert _steps(tmp_path) == [7, 9]


def test_resumed_run_forgets_what_came_after_its_step_and_knows_what_came_before(tmp_path: Path) -> None:
    retention = _retention(tmp_path, keep_last=5)
    for step, loss in ((1, 5.0), (2, 3.0), (3, 1.0)):
        _pass(retention, tmp_path, step, loss)
    set_aside_after(tmp_path, 2)
    assert best(tmp_path)[1].step == 2
    resumed = _retention(tmp_path, keep_last=1, start=2)
    for step, loss in ((3, 3.5), (4, 3.2)):
        _pass(resumed, tmp_path, step, loss)
    assert _steps(tmp_path) == [2, 4] and best(tmp_path)[1].step == 2


def test_first_result_of_a_step_stands(tmp_path: Path) -> None:
    """A resumed run evaluates its first step again; of a finished run, that is another network."""
    _pass(_retention(tmp_path), tmp_path, 3, 1.0)
    resumed = _retention(tmp_path, start=3)
    resumed.evaluated(3, {"test_loss": 7.0})
    assert best(tmp_path)[2] == 1.0


def test_result_without_a_loss_is_not_taken_down(tmp_path: Path) -> None:
    retention = _retention(tmp_path)
    _pass(retention, tmp_path, 3, None)
    retention.evaluated(3, {"test_loss": None, "test_accuracy": 0.5})
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* has a test loss: .* evaluate_every"):
        best(tmp_path)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_never_the_best(tmp_path: Path, loss: float) -> None:
    retention = _retention(tmp_path, keep_last=1)
    for step, found in ((1, 9.0), (2, loss), (3, 10.0)):
        _pass(retention, tmp_path, step, found)
    assert _steps(tmp_path) == [1, 3] and best(tmp_path)[1].step == 1


def test_damaged_best_is_named_and_the_next_best_used(tmp_path: Path) -> None:
    retention = _retention(tmp_path, keep_last=3)
    for step, loss in ((1, 5.0), (2, 3.0), (3, 4.0)):
        _pass(retention, tmp_path, step, loss)
    (checkpoint_folder(tmp_path, 2) / stage_file(0)).write_bytes(b"weighty")
    with pytest.warns(UserWarning, match=r"step-000000002 is damaged: stage-0\.pt was changed.*003 is used instead"):
        assert best(tmp_path)[1].step == 3


@pytest.mark.parametrize("content", ["", "[]", '{"test_loss": null}', '{"step": 2}', '{"test_loss": "low"}'])
def test_damaged_result_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    retention = _retention(tmp_path, keep_last=3)
    for step, loss in ((1, 5.0), (2, 3.0)):
        _pass(retention, tmp_path, step, loss)
    (checkpoint_folder(tmp_path, 2) / "evaluation.json").write_text(content)
    assert best(tmp_path)[1].step == 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    losses=st.lists(st.none() | st.sampled_from([1.0, 2.0, 3.0, math.nan]), min_size=1, max_size=8),
    keep_last=st.integers(1, 3),
    keep_best=st.booleans(),
    restart_at=st.integers(0, 8),
)
def test_kept_are_always_the_newest_and_the_best_of_all_passed(
    tmp_path_factory: pytest.TempPathFactory,
    losses: list[float | None],
    keep_last: int,
    keep_best: bool,
    restart_at: int,
) -> None:
    checkpoints = tmp_path_factory.mktemp("kept")
    retention = _retention(checkpoints, keep_last=keep_last, keep_best=keep_best)
    with patch("os.fsync"):  # nothing crashes here, and the disk is slow
        for step, loss in enumerate(losses, start=1):
            if step == restart_at:
                retention = _retention(checkpoints, keep_last=keep_last, keep_best=keep_best, start=step - 1)
            _pass(retention, checkpoints, step, loss)
            assert latest(checkpoints)[1].step == step
    finite = {step: loss for step, loss in enumerate(losses, start=1) if loss is not None and math.isfinite(loss)}
    expected = set(range(max(len(losses) - keep_last, 0) + 1, len(losses) + 1))
    if keep_best and finite:
        expected.add(min(finite, key=lambda step: (finite[step], step)))
    found = set(_steps(checkpoints))
    assert found == expected or not finite  # without a finite loss, any of the others may count as best
    assert found >= expected
