"""Can a researcher train a network of their own from a notebook, without configuration files?"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dni import Always, Bernoulli, ConditionalSyntheticGradient, SyntheticGradient
from pipeline import KeyedBatches, Sgd, StageFailure, partition, train
from pipeline.errors import ConfigurationError, RunError


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 64) in [0, 1], labels (1797,)."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(a, 64), nn.BatchNorm1d(64), nn.ReLU()) for a in (64, 64, 64)]
    return nn.Sequential(*hidden, nn.Linear(64, 10))


def _accuracy(model: nn.Module, x: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        return (model.eval()(x).argmax(1) == target).float().mean().item()


def _small(x: Tensor) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(x.shape[1], 8), nn.ReLU(), nn.Linear(8, 3))


def _tiny() -> tuple[Tensor, Tensor]:
    x = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    return x, x[:, :3].argmax(1)


def test_example_of_the_design_trains_digits(digits: tuple[Tensor, Tensor]) -> None:
    x, target = digits
    loader = DataLoader(TensorDataset(x[:1500], target[:1500]), batch_size=32, shuffle=True)
    model = _network()

    stages = partition(model, num_stages=4)
    result = train(
        stages,
        loader,
        loss=nn.CrossEntropyLoss(),
        source=ConditionalSyntheticGradient(num_classes=10),
        sync=Bernoulli(0.1),
        steps=400,
    )

    fresh = _network()
    fresh.load_state_dict(result.export(), strict=True)
    assert _accuracy(fresh, x[1500:], target[1500:]) > 0.85
    assert _accuracy(model, x[1500:], target[1500:]) == _accuracy(fresh, x[1500:], target[1500:]), "trained in place"
    assert result.summary["resume_exact"] is False and result.folder is None


def test_export_loads_into_the_unsplit_model_and_computes_the_same() -> None:
    x, target = _tiny()
    model = _small(x)
    result = train(partition(model, 2), [(x, target)], loss=nn.CrossEntropyLoss(), sync=Always(), steps=5)
    fresh = _small(x)
    before = copy.deepcopy(fresh.state_dict())
    fresh.load_state_dict(result.export(), strict=True)
    assert torch.equal(fresh(x), model(x))
    assert not torch.equal(before["0.weight"], fresh.state_dict()["0.weight"])


def test_regression_learns_without_labels_of_classes() -> None:
    x, _ = _tiny()
    y = x[:, :2] * 2 - 1
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(5, 16), nn.ReLU()), nn.Linear(16, 2)]
    result = train(
        stages,
        KeyedBatches(x, y, batch_size=8),
        loss=nn.MSELoss(),
        source=SyntheticGradient(),
        sync=Bernoulli(0.2),
        steps=300,
        test=[(x, y)],
    )
    assert result.summary["test_loss"] < 0.5 * y.var().item()
    assert result.summary["test_accuracy"] is None


def test_loss_may_be_a_function_and_data_a_generator() -> None:
    x, target = _tiny()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, 24, 6):
            yield x[start : start + 6], target[start : start + 6]

    def loss(h: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(h, target)

    result = train(partition(_small(x), 2), batches(), loss=loss, steps=4)
    assert result.summary["steps"] == 4 and result.summary["samples"] == 24
    with pytest.raises(RunError, match="the data ran out after 4 batches"):
        train(partition(_small(x), 2), batches(), loss=loss, steps=5)


@pytest.mark.parametrize(
    "make", [lambda x, t: [(x, t)], lambda x, t: DataLoader(TensorDataset(x, t), batch_size=8, shuffle=True)]
)
def test_global_generator_is_undisturbed_and_does_not_disturb(make: Callable[[Tensor, Tensor], Any]) -> None:
    x, target = _tiny()
    results = []
    for seed in (3, 4):
        model = _small(x)
        model.insert(1, nn.Dropout(0.5))
        torch.manual_seed(seed)
        result = train(partition(model, 2), make(x, target), loss=nn.CrossEntropyLoss(), steps=6)
        drawn = torch.rand(2)
        torch.manual_seed(seed)
        assert torch.equal(drawn, torch.rand(2))
        results.append(result.export())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_list_of_modules_is_the_stages_and_is_trained_in_place() -> None:
    x, target = _tiny()
    modules = [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)]
    before = modules[0].weight.clone()
    result = train(modules, [(x, target)], loss=nn.CrossEntropyLoss(), steps=3)
    assert result.summary["num_stages"] == 3
    assert not torch.equal(before, modules[0].weight)
    assert set(result.export()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    joined = train(modules, [(x, target)], loss=nn.CrossEntropyLoss(), steps=1, num_stages=2)
    assert joined.summary["num_stages"] == 2


def test_module_is_cut_on_the_way() -> None:
    x, target = _tiny()
    result = train(_small(x), [(x, target)], loss=nn.CrossEntropyLoss(), steps=2, num_stages=3)
    assert result.summary["num_stages"] == 3


def test_frozen_first_stage_stays_as_it_is() -> None:
    x, target = _tiny()
    model = _small(x)
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    train(partition(model, 2), [(x, target)], loss=nn.CrossEntropyLoss(), steps=3, optimizer=Sgd(lr=0.5))
    assert torch.equal(before["0.weight"], model[0].weight) and not torch.equal(before["2.weight"], model[2].weight)


def test_settings_are_those_of_the_configuration() -> None:
    x, target = _tiny()
    result = train(
        partition(_small(x), 2), [(x, target)], loss=nn.CrossEntropyLoss(), steps=9, cadence=(3,), clip_norm=0.1, seed=5
    )
    assert [stage["updates"] for stage in result.summary["stages"]] == [3, 3]
    with pytest.raises(TypeError, match="speed"):
        train(partition(_small(x), 2), [(x, target)], loss=nn.CrossEntropyLoss(), steps=9, speed=3)


def test_folder_gets_everything_a_run_writes(tmp_path: Path) -> None:
    x, target = _tiny()
    folder = tmp_path / "run"
    result = train(
        partition(_small(x), 2), [(x, target)], loss=nn.CrossEntropyLoss(), steps=4, folder=folder, log_every=2
    )
    assert result.folder == folder
    assert json.loads((folder / "summary.json").read_text())["steps"] == 4
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    for name in ("metrics/stage-1.jsonl", "trace/stage-0.jsonl", "checkpoints/step-000000004/manifest.json"):
        assert name in names


def test_failure_names_stage_and_step_and_is_written_down(tmp_path: Path) -> None:
    class Failing(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            if self.calls > 4:
                raise RuntimeError("scripted")
            return x

    x, target = _tiny()
    stages = [nn.Linear(5, 5), Failing(), nn.Linear(5, 3)]
    with pytest.raises(StageFailure, match="stage 1 failed at step 4 in forward: RuntimeError: scripted"):
        train(stages, [(x, target)], loss=nn.CrossEntropyLoss(), steps=9, folder=tmp_path)
    record = json.loads((tmp_path / "error.json").read_text())
    assert (record["rank"], record["stage"], record["step"], record["phase"]) == (0, 1, 4, "forward")
    assert "scripted" in record["traceback"] and not (tmp_path / "summary.json").exists()


def test_mistake_is_refused_before_any_step() -> None:
    x, target = _tiny()
    model = _small(x)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigurationError, match="the loss cannot take the first batch"):
        train(partition(model, 2), [(x, target)], loss=nn.MSELoss(), steps=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_number_of_threads_is_given_back() -> None:
    x, target = _tiny()
    torch.set_num_threads(2)
    train(partition(_small(x), 2), [(x, target)], loss=nn.CrossEntropyLoss(), steps=1, num_threads=1)
    assert torch.get_num_threads() == 2
