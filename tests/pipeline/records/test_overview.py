"""Does TensorBoard say of a run with which settings it ran, when, and how it ended, and each of it once?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams import api_pb2
from torch import Tensor, nn

from dni import Every, Never, SyntheticGradient, TrueGradient
from pipeline import KeyedBatches, StageFailure, train
from pipeline.configuration.config import Config, Data
from pipeline.configuration.run import prepare
from pipeline.executors.training import run_simulated
from pipeline.records.overview import Overview
from tests.pipeline.records.boards import Boards

STEPS = 6


class _Fails(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) == 2:  # the last batch of the epoch
            raise RuntimeError("it | broke")
        return super().forward(x)


def _config(steps: int = STEPS, **more: Any) -> Config:
    x = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    data = Data(train=KeyedBatches(x, x[:, :3].argmax(1), batch_size=4), test=[(x, x[:, :3].argmax(1))])
    settings: dict[str, Any] = {
        "model": lambda: [nn.Linear(5, 4), nn.Linear(4, 3)],
        "source": SyntheticGradient(),
        "sync": Every(2),
        "log_every": 2,
        "checkpoint_every": 4,
        "measure_every": 1,
    }
    return Config(data=lambda: data, loss=nn.CrossEntropyLoss(), steps=steps, **settings | more)


def _charts(boards: Boards) -> dict[str, dict[str, str]]:
    (event,) = boards.all["run"].Tensors(CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    return {each.title: {chart.title: chart.multiline.tag[0] for chart in each.chart} for each in layout.category}


def test_a_run_is_one_row_of_settings_and_results(tmp_path: Path) -> None:
    result = run_simulated(prepare(_config()), folder=tmp_path)
    boards = Boards(tmp_path)
    settings, status = boards.session()
    assert status == api_pb2.STATUS_SUCCESS
    expected = {"source": "SyntheticGradient", "sync": "Every 2", "optimizer": "Adam", "stages": 2.0, "delay": 2.0}
    assert {name: settings[name] for name in expected} == expected and settings["lr"] == pytest.approx(1e-3)
    assert "stash" not in settings, "the default"
    results = boards.scalars("run")
    assert set(results) == {
        *("result/train_loss", "result/test_loss", "result/test_accuracy", "run/samples_per_s", "run/staleness")
    }
    assert results["result/test_loss"] == [(STEPS, pytest.approx(result.summary["test_loss"]))]
    assert results["run/staleness"][0][1] == pytest.approx(result.summary["stages"][0]["staleness_mean"])
    (shown,) = boards.texts("run", "run/settings")
    assert "| sync | Every(" in shown[1] and "| seed | 0 |" in shown[1]


def test_settings_that_are_not_the_default_stand_first_and_break_no_table(tmp_path: Path) -> None:
    run_simulated(prepare(_config(name="a|b*c")), folder=tmp_path)
    ((_, text),) = Boards(tmp_path).texts("run", "run/settings")
    assert "| name | a\\|b\\*c |" in text
    assert text.index("| sync |") < text.index("**by default**") < text.index("| seed |")


def test_charts_are_those_of_what_is_measured(tmp_path: Path) -> None:
    run_simulated(prepare(_config()), folder=tmp_path / "synthetic")
    boards = Boards(tmp_path / "synthetic")
    charts = _charts(boards)
    assert set(charts) == {"learning", "gradient quality", "pipeline"}
    assert charts["learning"]["training loss"] == "loss/train"
    written = set().union(*(boards.scalars(name) for name in boards.all))
    patterns = {pattern.rstrip("$") for own in charts.values() for pattern in own.values()}
    assert patterns <= written, "a chart that stays empty"
    run_simulated(
        prepare(_config(model=lambda: [nn.Linear(5, 3)], sync=Never(), source=TrueGradient())), folder=tmp_path / "one"
    )
    assert set(_charts(Boards(tmp_path / "one"))) == {"learning", "pipeline"}


def test_a_run_that_goes_on_shows_nothing_twice_and_its_last_ending(tmp_path: Path) -> None:
    run_simulated(prepare(_config(steps=4)), folder=tmp_path)
    run_simulated(prepare(_config()), folder=tmp_path, resume=True)
    boards = Boards(tmp_path)
    settings, status = boards.session()
    assert (settings["steps"], status) == (float(STEPS), api_pb2.STATUS_SUCCESS)
    assert [step for step, _ in boards.scalars("run")["result/test_loss"]] == [STEPS]
    assert _charts(boards)
    assert [step for step, _ in boards.scalars("stage-01")["loss/test"]] == [STEPS], "that of step 4 is hidden"
    history = [text.split("UTC: ")[1] for _, text in boards.texts("run", "run/history")]
    assert history[0] == "starts at step 0 of 4, executor simulate"
    assert history[1].startswith("finished before step 4, after ")
    assert history[2] == "goes on from step 4 of 6, executor simulate" and history[3].startswith(
        "finished before step 6"
    )


def test_a_run_that_fails_says_so_and_has_no_results(tmp_path: Path) -> None:
    x = torch.randn(10, 5)
    batches = [(x[i : i + 4], torch.zeros(len(x[i : i + 4]), dtype=torch.long)) for i in (0, 4, 8)]
    with pytest.raises(StageFailure):
        train([_Fails(5, 4), nn.Linear(4, 3)], batches, loss=nn.CrossEntropyLoss(), steps=3, folder=tmp_path)
    boards = Boards(tmp_path)
    assert boards.session()[1] == api_pb2.STATUS_FAILURE and boards.scalars("run") == {}
    _, (_, text) = boards.texts("run", "run/history")
    assert "StageFailure" in text and "it \\| broke" in text


def test_a_run_that_is_not_over_has_no_ending(tmp_path: Path) -> None:
    Overview(tmp_path, prepare(_config())).begin(0)
    assert Boards(tmp_path).session()[1] is None
