"""Does summary.json keep its contract?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni import ConditionalSyntheticGradient, Every, SyntheticGradient
from pipeline import Config, ConfigurationError, Data, KeyedBatches, prepare, run_simulated
from pipeline.configuration.run import resumes_exactly
from pipeline.records.summary import read_stages

KEYS = {
    "status", "executor", "num_stages", "world_size", "steps", "samples", "wall_s", "samples_per_s", "train_loss",
    "test_loss", "test_accuracy", "test_error", "metrics", "resume_exact", "stages", "edges",
}  # fmt: skip
STAGE_KEYS = {
    "index", "num_parameters", "updates", "forwards", "backwards", "busy_s", "wait_s", "staleness_mean",
    "staleness_max", "source_loss", "gradient_cosine",
}  # fmt: skip
X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
TARGET = X[:, :3].argmax(1)


def _config(**more: Any) -> Config:
    settings: dict[str, Any] = {
        "model": lambda: [nn.Linear(4, 5), nn.Linear(5, 3)],
        "data": lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8), test=[(X, TARGET)]),
        "loss": nn.CrossEntropyLoss(),
        "source": ConditionalSyntheticGradient(3),
        "sync": Every(4),
        "steps": 12,
    }
    return Config(**{**settings, **more})


@pytest.mark.parametrize("stop_early", [False, True])
def test_summary_has_at_least_the_keys_of_the_contract(tmp_path: Path, stop_early: bool) -> None:
    result = run_simulated(prepare(_config()), folder=tmp_path if not stop_early else None)
    summary = result.summary
    assert set(summary) >= KEYS
    assert all(set(stage) >= STAGE_KEYS for stage in summary["stages"])
    assert (summary["status"], summary["executor"], summary["num_stages"]) == ("finished", "simulate", 2)
    assert (summary["world_size"], summary["steps"], summary["metrics"]) == (1, 12, {})
    assert summary["samples"] == 3 * 30 and summary["samples_per_s"] == pytest.approx(90 / summary["wall_s"])
    assert [stage["index"] for stage in summary["stages"]] == [0, 1]
    assert [stage["num_parameters"] for stage in summary["stages"]] == [25, 18]
    assert [stage["forwards"] for stage in summary["stages"]] == [12, 12]
    assert summary["stages"][0]["gradient_cosine"] is not None and summary["stages"][1]["gradient_cosine"] is None
    if not stop_early:
        assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_accuracy_and_error_are_fractions_and_fit_the_model() -> None:
    result = run_simulated(prepare(_config(steps=60)))
    summary = result.summary
    h = X
    for stage in result.cut.stages:
        h = stage.eval()(h)
    assert summary["test_accuracy"] == pytest.approx((h.argmax(1) == TARGET).float().mean().item())
    assert summary["test_error"] == pytest.approx(1 - summary["test_accuracy"])
    assert summary["test_loss"] == pytest.approx(nn.functional.cross_entropy(h, TARGET).item(), rel=1e-5)
    assert 0 < summary["train_loss"] < math.log(3)


def test_what_has_no_meaning_is_null() -> None:
    regression = _config(
        data=lambda: Data(train=KeyedBatches(X, X[:, :3], batch_size=8), test=[(X, X[:, :3])]),
        loss=nn.MSELoss(),
        source=ConditionalSyntheticGradient(3),
    )
    with pytest.raises(Exception, match="labels must be integers"):
        prepare(regression)
    summary = run_simulated(prepare(_config(
        data=lambda: Data(train=KeyedBatches(X, X[:, :3], batch_size=8), test=[(X, X[:, :3])]),
        loss=nn.MSELoss(),
        source=SyntheticGradient(),
    ))).summary  # fmt: skip
    assert summary["test_loss"] > 0 and summary["test_accuracy"] is None and summary["test_error"] is None
    untested = run_simulated(prepare(_config(data=lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8))))).summary
    assert untested["test_loss"] is None and untested["train_loss"] > 0


@pytest.mark.parametrize(
    ("settings", "step", "exact"),
    [
        ({"checkpoint_every": 4}, 8, True),
        ({"checkpoint_every": 4}, 6, False),
        ({"evaluate_every": 3}, 6, True),
        ({"evaluate_every": 3, "data": lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8))}, 6, False),
        ({"delay": (1,)}, 5, True),
        ({"checkpoint_every": 4, "arrival": "ready"}, 8, False),
        ({"checkpoint_every": 4, "data": lambda: Data(train=[(X, TARGET)])}, 8, False),
    ],
)
def test_resume_is_exact_only_where_it_can_be(settings: dict[str, Any], step: int, exact: bool) -> None:
    assert resumes_exactly(prepare(_config(**settings)), step) is exact


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "name the folder of a finished run"),
        ("{", "cannot be read: JSONDecodeError"),
        ("{}", "KeyError: 'stages'"),
    ],
)
def test_folder_without_a_readable_summary_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        read_stages(tmp_path)
