"""Are a stage's updates measured when they are asked for, as they were, and without changing them?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from pipeline import KeyedBatches, Sgd, train
from pipeline.records.tags import tag_of

STEPS = 6
MEASURES = ("relative_update", "angular_update", "gradient_by_norm", "weight_norm")


def _trained(folder: Path | None, **more: Any) -> list[Tensor]:
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU()), nn.Linear(4, 3)]
    x = torch.randn(24, 5)
    train(
        stages,
        KeyedBatches(x, x[:, :3].argmax(1), batch_size=4),
        loss=nn.CrossEntropyLoss(),
        steps=STEPS,
        optimizer=Sgd(lr=0.1, momentum=0.9),
        folder=folder,
        **{"log_every": 1, "cadence": (2,), "delay": (1,), **more},
    )
    return [parameter.detach() for stage in stages for parameter in stage.parameters()]


def _measured(folder: Path, stage: int) -> dict[str, dict[int, float]]:
    """Step and value by name."""
    found: dict[str, dict[int, float]] = {}
    for line in map(json.loads, (folder / "metrics" / f"stage-{stage}.jsonl").read_text().splitlines()):
        for name in line.keys() & {f"{measure}/{at}.weight" for measure in MEASURES for at in ("0.0", "1")}:
            found.setdefault(name, {})[line["step"]] = line[name]
    return found


def test_every_update_of_the_matrices_of_a_stage_is_measured(tmp_path: Path) -> None:
    _trained(tmp_path, measure_updates_every=1)
    for stage, name in ((0, "0.0.weight"), (1, "1.weight")):
        found = _measured(tmp_path, stage)
        assert found.keys() == {f"{measure}/{name}" for measure in MEASURES}
        assert {len(values) for values in found.values()} == {STEPS // 2}, "an update every other step"
        assert all(0 < value < 10 for values in found.values() for value in values.values())
        events = EventAccumulator(str(tmp_path / "tensorboard" / f"stage-{stage:02}")).Reload()
        assert set(map(tag_of, found)) <= set(events.Tags()["scalars"])


def test_one_in_so_many_updates_is_measured_and_by_default_none(tmp_path: Path) -> None:
    _trained(tmp_path / "some", measure_updates_every=2)
    assert {tuple(values) for values in _measured(tmp_path / "some", 1).values()} == {(1, 5)}
    _trained(tmp_path / "none")
    assert _measured(tmp_path / "none", 1) == {}


def test_measured_gradient_is_the_mean_over_the_samples_of_the_update(tmp_path: Path) -> None:
    """The first step is the rate times the gradient, momentum or not, so its measures belong together."""
    _trained(tmp_path, measure_updates_every=1)
    found = _measured(tmp_path, 1)
    torch.manual_seed(0)
    _, last = nn.Linear(5, 4), nn.Linear(4, 3)
    norm = last.weight.detach().double().norm().item()
    expected = 0.1 * found["gradient_by_norm/1.weight"][1] / norm**2
    assert found["weight_norm/1.weight"][1] == pytest.approx(norm, rel=1e-12)
    assert found["relative_update/1.weight"][1] == pytest.approx(expected, rel=1e-5)


def test_measuring_changes_no_weight() -> None:
    pairs = zip(_trained(None), _trained(None, measure_updates_every=1), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
