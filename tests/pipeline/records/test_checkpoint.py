"""Is a checkpoint whole or not there at all, and does it fit only the model it was taken from?"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dni import SyntheticGradient
from pipeline.errors import CheckpointError
from pipeline.records.checkpoint import (
    latest,
    load,
    read_feed,
    read_stage,
    remove_before,
    save_feed,
    save_stage,
    set_aside_after,
)
from pipeline.records.manifest import Manifest, write_manifest
from pipeline.stages.stage import Stage
from tests.pipeline.chain import WIDTH, activation, equal, linear, make_stage, weights

CPU = torch.device("cpu")


def _stages(width: int = WIDTH) -> list[Stage]:
    return [
        make_stage(linear(1), index=0, num_stages=2, source=SyntheticGradient(), cadence=2),
        make_stage(nn.Sequential(linear(2), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, width)), index=1, num_stages=2),
    ]


def _save(folder: Path, stages: list[Stage], step: int, *, finish: bool = True) -> Manifest:
    """A checkpoint; with `finish=False`, all of it but the manifest."""
    files = save_feed(folder, {"given": step}, step=step)
    for stage in stages:
        files |= save_stage(folder, stage, step=step)
    manifest = Manifest(step=step, num_stages=len(stages), exact=True, finished=False, files=files)
    if finish:
        write_manifest(folder, manifest)
    return manifest


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _learn(stages: list[Stage], steps: range) -> None:
    for step in steps:
        (up, *_) = stages[0].handle(activation(step))
        (down,) = stages[1].handle(up.message)
        stages[0].handle(down.message)


def test_stages_go_on_from_their_files_as_if_nothing_had_happened(tmp_path: Path) -> None:
    stages = _stages()
    _learn(stages, range(3))
    saved = _save(tmp_path, stages, 3)
    folder, manifest = latest(tmp_path)
    resumed = _stages()
    load(folder, resumed, manifest)
    for chain in (stages, resumed):
        _learn(chain, range(3, 8))
    for stage, other in zip(stages, resumed, strict=True):
        assert equal(weights(stage.module), weights(other.module)) and stage.version == other.version
    assert manifest == saved and folder == tmp_path / "step-000000003" and read_feed(folder) == {"given": 3}


def test_manifest_is_what_makes_a_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path, _stages(), 5)
    manifest = _save(tmp_path, _stages(), 10, finish=False)
    with pytest.warns(
        UserWarning, match=r"step-000000010 is unfinished: it has no manifest\.json\. .*5 is used instead"
    ):
        assert latest(tmp_path)[1].step == 5
    write_manifest(tmp_path, manifest)
    assert latest(tmp_path)[1].step == 10


def test_newest_checkpoint_is_found_by_number_not_by_text(tmp_path: Path) -> None:
    for step in (9, 10, 100, 99, 1_000_000_000, 999_999_999):
        _save(tmp_path, _stages(), step)
    assert latest(tmp_path)[1].step == 1_000_000_000


@pytest.mark.parametrize("there", [False, True])
def test_run_without_a_whole_checkpoint_is_refused(tmp_path: Path, there: bool) -> None:
    if there:
        save_stage(tmp_path, _stages()[0], step=5)
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds no whole checkpoint") as caught:
        latest(tmp_path)
    assert ("step-000000005 is unfinished" if there else "The run ended before its first one") in str(caught.value)


# Damage


def _flip(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])


def _replace(old: str, new: str) -> Callable[[Path], object]:
    def harm(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(path.read_text().replace(old, new))

    return harm


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing stage file": (
        lambda folder: (folder / "stage-1.pt").unlink(),
        r"is damaged: stage-1\.pt is missing\.",
    ),
    "truncated stage file": (
        lambda folder: (folder / "stage-1.pt").write_bytes((folder / "stage-1.pt").read_bytes()[:-1]),
        r"is damaged: stage-1\.pt has [\d,]+ bytes, [\d,]+ were written\.",
    ),
    "empty stage file": (lambda folder: (folder / "stage-0.pt").write_bytes(b""), r"stage-0\.pt has 0 bytes"),
    "flipped byte": (lambda folder: _flip(folder / "stage-0.pt"), r"is damaged: stage-0\.pt was changed"),
    "both stages": (
        lambda folder: [(folder / f"stage-{index}.pt").unlink() for index in (0, 1)],
        r"is damaged: stage-0\.pt is missing, stage-1\.pt is missing\.",
    ),
    "stage file of another step": (
        lambda folder: (folder / "stage-1.pt").write_bytes(
            (folder.parent / "step-000000004" / "stage-1.pt").read_bytes()
        ),
        r"is damaged: stage-1\.pt was changed",
    ),
    "file of the data": (lambda folder: (folder / "feed.pt").unlink(), r"is damaged: feed\.pt is missing"),
    "missing manifest": (
        lambda folder: (folder / "manifest.json").unlink(),
        r"is unfinished: it has no manifest\.json",
    ),
    "empty manifest": (
        lambda folder: (folder / "manifest.json").write_text(""),
        r"manifest\.json cannot be read: JSONDecodeError",
    ),
    "half a manifest": (
        lambda folder: (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:60]),
        r"manifest\.json cannot be read: JSONDecodeError",
    ),
    "manifest that is no text": (
        lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"),
        r"manifest\.json cannot be read: UnicodeDecodeError",
    ),
    "manifest that is a list": (
        lambda folder: (folder / "manifest.json").write_text("[]"),
        r"json cannot be read: Attr",
    ),
    "manifest without its fields": (
        lambda folder: (folder / "manifest.json").write_text('{"format": 2, "files": {}}'),
        r"manifest\.json cannot be read: TypeError",
    ),
    "manifest of another format": (_replace('"format": 2', '"format": 9'), r"manifest\.json has format 9, .* reads 2"),
    "manifest of another step": (
        lambda folder: (folder / "manifest.json").write_bytes(
            (folder.parent / "step-000000004" / "manifest.json").read_bytes()
        ),
        r"manifest\.json cannot be right: it says step 4",
    ),
    "manifest of more stages": (_replace('"num_stages": 2', '"num_stages": 3'), r"cannot be right: .* and 3 stages"),
    "manifest whose step is no number": (_replace('"step": 8', '"step": "8"'), r"json cannot be read: ValueError"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_is_used(tmp_path: Path, damage: str) -> None:
    stages = _stages()
    _learn(stages, range(4))
    _save(tmp_path, stages, 4)
    _learn(stages, range(4, 8))
    _save(tmp_path, stages, 8)
    harm, message = DAMAGE[damage]
    harm(tmp_path / "step-000000008")
    with pytest.warns(UserWarning, match=f"step-000000008.*{message}.* {tmp_path / 'step-000000004'} is used instead"):
        folder, manifest = latest(tmp_path)
    assert folder.name == "step-000000004" and manifest.step == 4
    load(folder, _stages(), manifest)


def test_if_no_checkpoint_is_whole_the_error_says_what_is_wrong_with_each(tmp_path: Path) -> None:
    for step, damage in ((4, "truncated stage file"), (8, "flipped byte"), (12, "missing manifest")):
        _save(tmp_path, _stages(), step)
        DAMAGE[damage][0](tmp_path / f"step-{step:09d}")
    with pytest.raises(CheckpointError) as caught:
        latest(tmp_path)
    for said in ("step-000000004 is damaged: stage-1.pt has", "8 is damaged: stage-0.pt was", "12 is unfinished"):
        assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# Making room


def test_run_that_goes_on_sets_aside_what_lies_after_its_step(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        _save(tmp_path, _stages(), step)
    (tmp_path / "step-000000008" / "stage-0.pt").unlink()
    _save(tmp_path, _stages(), 16, finish=False)
    set_aside_after(tmp_path, 4)
    assert _names(tmp_path) == ["aside-000000008", "aside-000000012", "step-000000004"]
    _save(tmp_path, _stages(), 8)
    set_aside_after(tmp_path, 4)
    assert _names(tmp_path) == ["aside-000000008", "aside-000000012", "step-000000004"]
    assert _names(tmp_path / "aside-000000008") == ["feed.pt", "manifest.json", "stage-0.pt", "stage-1.pt"]
    assert latest(tmp_path)[1].step == 4


def test_removal_takes_what_lies_before_a_step_but_what_is_kept(tmp_path: Path) -> None:
    for step in (4, 8, 12, 16):
        _save(tmp_path, _stages(), step)
    set_aside_after(tmp_path, 12)
    _save(tmp_path, _stages(), 10, finish=False)
    _save(tmp_path, _stages(), 20)
    _save(tmp_path, _stages(), 22, finish=False)
    (tmp_path / "step-notes").mkdir()
    remove_before(tmp_path, 20, kept={8, 20})
    assert _names(tmp_path) == ["step-000000008", "step-000000020", "step-000000022", "step-notes"]


@pytest.mark.parametrize("at", range(4))
def test_removal_cut_short_at_any_file_leaves_no_checkpoint_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    for step in (4, 8):
        _save(tmp_path, _stages(), step)
    calls, unlink = [], os.unlink

    def die(*arguments: object, **more: object) -> None:
        calls.append(arguments)
        if len(calls) > at:
            raise KeyboardInterrupt
        unlink(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", die)
    with pytest.raises(KeyboardInterrupt):
        remove_before(tmp_path, 8, kept={8})
    monkeypatch.undo()
    left = tmp_path / "step-000000004"
    assert (left / "manifest.json").exists() == (at == 0)
    assert (at == 0) == (len(_names(left)) == 4)
    assert latest(tmp_path)[1].step == 8
    remove_before(tmp_path, 8, kept={8})
    assert _names(tmp_path) == ["step-000000008"]


def test_checkpoint_that_cannot_be_removed_is_named_in_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (4, 8):
        _save(tmp_path, _stages(), step)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.warns(UserWarning, match="step-000000004 is no longer needed and could not be removed: .*Permission"):
        remove_before(tmp_path, 8, kept={8})
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(CheckpointError, match=r"step-000000008 is in the way .* step 4, and cannot be moved"):
        set_aside_after(tmp_path, 4)


# Another model


def test_checkpoint_of_another_model_is_refused_naming_the_tensor_and_changes_nothing(tmp_path: Path) -> None:
    _save(tmp_path, _stages(), 4)
    folder, manifest = latest(tmp_path)
    wider = _stages(width=5)
    before = [weights(stage.module) for stage in wider]
    with pytest.raises(CheckpointError, match=r"another model: stage 1 has 1\.2\.bias with shape \(5,\), .* \(3,\)"):
        load(folder, wider[1:], manifest)
    assert equal(before[1], weights(wider[1].module))


def test_checkpoint_with_other_tensors_is_refused_naming_the_first(tmp_path: Path) -> None:
    _save(tmp_path, _stages(), 4)
    folder, manifest = latest(tmp_path)
    without_norm = make_stage(nn.Sequential(linear(2), nn.Identity(), nn.Linear(3, 3)), index=1, num_stages=2)
    with pytest.raises(CheckpointError, match=r"stage 1 has 1\.1\.bias with shape none, the checkpoint \(3,\)"):
        load(folder, [without_norm], manifest)


def test_checkpoint_of_another_number_of_stages_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, [*_stages(), make_stage(index=2)], 4)
    folder, manifest = latest(tmp_path)
    with pytest.raises(CheckpointError, match="holds 3 stages, this run has 2"):
        load(folder, _stages(), manifest)


def test_checkpoint_without_the_place_of_the_data_says_what_that_means(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not say where the data stood .*no state_dict\(\)"):
        read_feed(tmp_path)


# Reading


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stage-7\.pt cannot be read: FileNotFoundError"):
        read_stage(tmp_path, 7, device=CPU)


def test_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return os.system, ("touch evil",)

    (tmp_path / "stage-0.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"stage-0\.pt cannot be read"):
        read_stage(tmp_path, 0, device=CPU)
    torch.save({"module": Evil()}, tmp_path / "stage-1.pt")
    with pytest.raises(CheckpointError, match=r"stage-1\.pt cannot be read"):
        read_stage(tmp_path, 1, device=CPU)


def test_everything_that_is_saved_can_be_read_with_weights_only(tmp_path: Path) -> None:
    adam = {"source": SyntheticGradient(), "optimizer": lambda p: torch.optim.Adam(p, lr=0.1)}
    stages = [make_stage(linear(1), index=0, num_stages=2, **adam), _stages()[1]]
    _learn(stages, range(3))
    _save(tmp_path, stages, 3)
    state = torch.load(tmp_path / "step-000000003" / "stage-0.pt", weights_only=True)
    names = {"module", "source", "input", "carried", "updater", "version", "num_syncs", "velocity", "quality"}
    names |= {"quality_above", "structure", "original", "ages", "masks", "edits", "initial", "curvature"}
    assert set(state) == names
    assert set(state["module"]) == {"0.weight", "0.bias"} and state["source"] is not None
    assert set(state["updater"]["optimizer"]["0.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
