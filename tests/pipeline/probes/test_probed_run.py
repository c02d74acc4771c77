"""Is what is probed the network that the run had, at each checkpoint, whatever its structure?"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline import CheckpointError, ConfigurationError
from pipeline.probes.network import take_samples
from pipeline.probes.probed_run import ProbedRun
from pipeline.records.manifest import checkpoint_folder
from tests.pipeline.probed import network_of, run_folder, samples_of


def _copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(run_folder(name), folder / name))


def test_network_holds_the_tensors_of_the_checkpoint_in_evaluation_mode() -> None:
    network = network_of("normalised", 8)
    saved = [
        torch.load(path, weights_only=True)
        for path in sorted(checkpoint_folder(run_folder("normalised") / "checkpoints", 8).glob("stage-*.pt"))
    ]
    expected = {name: value for state in saved for name, value in state["module"].items()}
    found = {network.name_of(key): value for key, value in network.whole.state_dict().items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not any(module.training for module in network.whole.modules())


def test_network_after_a_change_of_structure_is_the_changed_one() -> None:
    assert [tuple(network_of("pruned", step).learned["0.0.weight"].shape) for step in (4, 8)] == [(6, 4), (4, 4)]


def test_all_last_and_steps_name_checkpoints_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    folder = _copied("base", tmp_path)
    run = ProbedRun(folder, device="cpu")
    assert list(run.find(["all"])) == [4, 8, 12]
    assert list(run.find(["last", "4"])) == [4, 12]
    path = checkpoint_folder(folder / "checkpoints", 8) / "stage-0.pt"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=r"step-000000008 is damaged: .* It is left out"):
        assert list(run.find(["all"])) == [4, 12]
    with pytest.raises(CheckpointError, match="step-000000008 is damaged"):
        run.find(["8"])
    with pytest.raises(ConfigurationError, match=r"--at takes all, last, or steps .* got 5; .* at step 4, 8, 12"):
        run.find(["5"])
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        run.find(["all"])


def test_configuration_that_has_changed_since_is_noted(tmp_path: Path) -> None:
    folder = _copied("base", tmp_path)
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(record | {"sha256": "0"}))
    with pytest.warns(UserWarning, match="has changed since .* networks come from the checkpoints"):
        ProbedRun(folder, device="cpu")


def test_parameter_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    run = ProbedRun(_copied("base", tmp_path), device="cpu")
    folder = checkpoint_folder(run.checkpoints, 8)
    state = torch.load(folder / "stage-1.pt", weights_only=True)
    state["module"]["2.weight"][0, 0] = float("nan")
    torch.save(state, folder / "stage-1.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["stage-1.pt"]
    content = (folder / "stage-1.pt").read_bytes()
    manifest["files"]["stage-1.pt"] = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"not finite in 2.weight of stage 1: the run has diverged"):
        run.network(8, samples_of("base"))


def test_samples_are_the_first_ones_in_batches_of_nearly_one_size() -> None:
    run = ProbedRun(run_folder("base"), device="cpu")
    whole = torch.cat([x for x, _ in run.prepared.test if isinstance(x, torch.Tensor)])
    samples = samples_of("base", 41)
    assert [len(target) for _, target in samples if target is not None] == [14, 14, 13]
    assert torch.equal(torch.cat([x for x, _ in samples if isinstance(x, torch.Tensor)]), whole[:41])
    assert sum(len(x) for x, _ in samples_of("base") if isinstance(x, torch.Tensor)) == 48, "all, as there are fewer"


def test_more_samples_than_there_are_and_no_test_data_are_refused() -> None:
    for name, split, wanted, message in (
        ("base", "test", 49, "samples is 49, but the test data hold 48. Set --samples"),
        ("base", "train", 97, "samples is 97, but the train data hold 96"),
        ("no_test", "test", None, "no test data to look at. Give the run test data, or set --split train"),
    ):
        run = ProbedRun(run_folder(name), device="cpu")
        with pytest.raises(ConfigurationError, match=message):
            take_samples(run.prepared, split=split, wanted=wanted, default=9, batch=9, device=run.device)  # type: ignore[arg-type]


def test_layers_are_found_by_their_names_in_the_whole_network() -> None:
    network = network_of("base")
    assert network.find_layers(["4", "1"]) == ["2.0", "0.1"]
    assert network.label("1.0.weight") == "stage 1: 2.weight"
    with pytest.raises(ConfigurationError, match=r"no layer '7' in the network at step 12; it has 0, 1, 2, 3, 4"):
        network.find_layers(["7"])
