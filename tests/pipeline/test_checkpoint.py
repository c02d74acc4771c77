"""Is a checkpoint whole or not there at all, and does it fit only the model it was taken from?"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from dni import SyntheticGradient
from pipeline.checkpoint import Manifest, latest, load, read_stage, save_stage, write_manifest
from pipeline.errors import CheckpointError
from pipeline.stage import Stage
from tests.pipeline.chain import WIDTH, activation, equal, linear, make_stage, weights

CPU = torch.device("cpu")


def _stages(width: int = WIDTH) -> list[Stage]:
    return [
        make_stage(linear(1), index=0, num_stages=2, source=SyntheticGradient(), cadence=2),
        make_stage(nn.Sequential(linear(2), nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, width)), index=1, num_stages=2),
    ]


def _manifest(step: int, *, num_stages: int = 2) -> Manifest:
    return Manifest(step=step, num_stages=num_stages, exact=True, finished=False)


def _save(folder: Path, stages: list[Stage], step: int) -> None:
    for stage in stages:
        save_stage(folder, stage, step=step)
    write_manifest(folder, _manifest(step))


def _learn(stages: list[Stage], steps: range) -> None:
    for step in steps:
        (up, *_) = stages[0].handle(activation(step))
        (down,) = stages[1].handle(up.message)
        stages[0].handle(down.message)


def test_stages_go_on_from_their_files_as_if_nothing_had_happened(tmp_path: Path) -> None:
    stages = _stages()
    _learn(stages, range(3))
    _save(tmp_path, stages, 3)
    folder, manifest = latest(tmp_path)
    resumed = _stages()
    load(folder, resumed, manifest)
    for chain in (stages, resumed):
        _learn(chain, range(3, 8))
    for stage, other in zip(stages, resumed, strict=True):
        assert equal(weights(stage.module), weights(other.module)) and stage.version == other.version
    assert manifest == _manifest(3) and folder == tmp_path / "step-000000003"


def test_manifest_is_what_makes_a_checkpoint(tmp_path: Path) -> None:
    stages = _stages()
    _save(tmp_path, stages, 5)
    for stage in stages:
        save_stage(tmp_path, stage, step=10)
    assert latest(tmp_path)[1].step == 5, "the files of step 10 are there, its manifest is not"
    write_manifest(tmp_path, _manifest(10))
    assert latest(tmp_path)[1].step == 10


def test_newest_checkpoint_is_found_by_number_not_by_text(tmp_path: Path) -> None:
    for step in (9, 10, 100, 99):
        _save(tmp_path, _stages(), step)
    assert latest(tmp_path)[1].step == 100


@pytest.mark.parametrize("there", [False, True])
def test_run_without_a_whole_checkpoint_is_refused(tmp_path: Path, there: bool) -> None:
    if there:
        save_stage(tmp_path, _stages()[0], step=5)
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds no whole checkpoint"):
        latest(tmp_path)


def test_files_are_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = _stages()
    _save(tmp_path, stages, 5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 3 and not any(path.suffix == ".tmp" for path in before)
    _learn(stages, range(2))

    def die(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_stage(tmp_path, stages[0], step=5)
    with pytest.raises(KeyboardInterrupt):
        write_manifest(tmp_path, _manifest(5))
    assert all(path.read_bytes() == content for path, content in before.items())


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
    _save(tmp_path, _stages(), 4)
    folder, _ = latest(tmp_path)
    with pytest.raises(CheckpointError, match="holds 3 stages, this run has 2"):
        load(folder, _stages(), _manifest(4, num_stages=3))


@pytest.mark.parametrize("size", [0, 100, -20])
def test_damaged_file_is_refused_by_name(tmp_path: Path, size: int) -> None:
    _save(tmp_path, _stages(), 4)
    folder, _ = latest(tmp_path)
    path = folder / "stage-1.pt"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"stage-1\.pt cannot be read") as caught:
        read_stage(folder, 1, device=CPU)
    assert caught.value.__cause__ is not None
    assert read_stage(folder, 0, device=CPU)["version"] == 0


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"step": 3}', "cannot be read"),
        (json.dumps({"step": 3, "num_stages": 2, "exact": True, "finished": False, "format": 9}), "has format 9"),
    ],
)
def test_damaged_or_foreign_manifest_is_refused(tmp_path: Path, content: str, message: str) -> None:
    folder = tmp_path / "step-000000003"
    folder.mkdir()
    (folder / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"manifest\.json {message}"):
        latest(tmp_path)


def test_everything_that_is_saved_can_be_read_with_weights_only(tmp_path: Path) -> None:
    adam = {"source": SyntheticGradient(), "optimizer": lambda p: torch.optim.Adam(p, lr=0.1)}
    stages = [make_stage(linear(1), index=0, num_stages=2, **adam), _stages()[1]]
    _learn(stages, range(3))
    _save(tmp_path, stages, 3)
    state = torch.load(tmp_path / "step-000000003" / "stage-0.pt", weights_only=True)
    assert set(state) == {"module", "source", "updater", "version", "num_syncs"}
    assert set(state["module"]) == {"0.weight", "0.bias"} and state["source"] is not None
    assert set(state["updater"]["optimizer"]["0.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
