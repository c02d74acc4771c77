"""Are weights, gradients and outputs shown as they are, when they are asked for, and without changing anything?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import BlockCadence, Layer, Periodic
from pipeline import ConfigurationError, KeyedBatches, Sgd, train
from tests.pipeline.records.boards import Boards

STEPS = 6
BLOCKS = (BlockCadence(Layer("0.0"), Periodic(3)),)


def _trained(folder: Path | None, **more: Any) -> list[Tensor]:
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.2)), nn.Linear(4, 3)]
    x = torch.randn(24, 5)
    train(
        stages,
        KeyedBatches(x, x[:, :3].argmax(1), batch_size=4),
        loss=nn.CrossEntropyLoss(),
        steps=STEPS,
        optimizer=Sgd(lr=0.1, momentum=0.9),
        folder=folder,
        **{"log_every": 2, "delay": (1,), **more},
    )
    return [tensor.detach().clone() for stage in stages for tensor in stage.state_dict().values()]


def test_histograms_are_of_the_weights_the_averaged_gradients_and_the_output(tmp_path: Path) -> None:
    *_, weight, bias = _trained(tmp_path, histograms_every=2)
    top = Boards(tmp_path).all["stage-01"]
    tags = {f"{kind}/1.{name}" for kind in ("weights", "weight_gradients") for name in ("weight", "bias")}
    assert tags | {"outputs/h"} <= set(top.Tags()["histograms"])
    assert {tuple(each.step for each in top.Histograms(tag)) for tag in tags} == {(0, 2, 4)}
    assert top.Histograms("outputs/h")[0].histogram_value.num == 4 * 3
    torch.manual_seed(0)
    nn.Linear(5, 4)
    first = nn.Linear(4, 3)
    gradient = top.Histograms("weight_gradients/1.bias")[0].histogram_value
    after = top.Histograms("weights/1.bias")[0].histogram_value
    assert after.sum == pytest.approx(first.bias.sum().item() - 0.1 * gradient.sum, rel=1e-5), "the first step is lr g"
    assert bias.shape == (3,) and weight.shape == (3, 4)


@pytest.mark.parametrize("more", [{}, {"blocks": BLOCKS}, {"stash": "recompute"}])
def test_showing_changes_no_bit(tmp_path: Path, more: dict[str, Any]) -> None:
    pairs = zip(_trained(tmp_path / "shown", histograms_every=1, **more), _trained(None, **more), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_by_default_nothing_is_shown_and_a_negative_number_is_refused(tmp_path: Path) -> None:
    _trained(tmp_path)
    assert Boards(tmp_path).all["stage-01"].Tags()["histograms"] == []
    with pytest.raises(ConfigurationError, match="histograms_every must be at least 0"):
        _trained(None, histograms_every=-1)
