"""Are the curvature along an update, and the step that follows from it, those of the loss that the stage sees?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import CurvatureSettings, StageCurvature, newton_rates
from pipeline import KeyedBatches, Sgd, train

LR = 0.01
EXACTLY = CurvatureSettings(rule=newton_rates, factor=1.0, rate_memory=0.0, period=1)


def _data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)


def _trained(folder: Path | None = None, **more: Any) -> list[nn.Module]:
    """One linear stage on squared errors, whose quadratic model is the loss itself."""
    torch.manual_seed(0)
    stages: list[nn.Module] = [nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()]
    x, target = _data()
    settings = {"loss": _squared, "optimizer": Sgd(lr=LR), "log_every": 1, **more}
    train(stages, KeyedBatches(x, target, batch_size=8), steps=1, folder=folder, **settings)
    return stages


def _squared(y: Tensor, target: Tensor) -> Tensor:
    return (y - target).square().sum()


def _measured(folder: Path) -> dict[str, float]:
    lines = map(json.loads, (folder / "metrics" / "stage-0.jsonl").read_text().splitlines())
    return {name: value for line in lines for name, value in line.items() if name.startswith("curvature/")}


def test_step_of_a_stage_goes_to_where_the_loss_is_least_along_it() -> None:
    """Moved in the last bias alone, along which the loss is a parabola."""
    begun = _trained(optimizer=Sgd(lr=1e-30))[0]
    frozen = StageCurvature(by="stage", settings=EXACTLY, acts=True)
    (stage,) = _trained(curvature=frozen, optimizer=_only_last_bias)
    x, target = _data()
    for name, own in stage.named_parameters():
        assert name == "1.bias" or torch.equal(own, begun.get_parameter(name))
    (slope,) = torch.autograd.grad(_squared(stage(x), target), stage.get_parameter("1.bias"))
    u = (begun.get_parameter("1.bias") - stage.get_parameter("1.bias")).detach()
    assert float(u.norm()) > 1e-3
    assert abs(float(slope @ u)) < 1e-9 * float(u.norm())


def _only_last_bias(parameters: Any) -> torch.optim.Optimizer:
    *others, last = parameters
    return torch.optim.SGD([{"params": others, "lr": 0.0}, {"params": [last], "lr": LR}], lr=LR)


def test_measures_are_per_sample_and_along_the_step_that_is_proposed(tmp_path: Path) -> None:
    """Of plain SGD the step is the rate times the gradient, so <g, u> = u'u / rate."""
    begun = _trained(optimizer=Sgd(lr=1e-30))[0]
    (stage,) = _trained(tmp_path, curvature=StageCurvature(settings=EXACTLY))
    found = _measured(tmp_path)
    x, target = _data()
    for name, own in stage.named_parameters():
        u = (begun.get_parameter(name) - own).detach()
        assert found[f"curvature/gradient/0.{name}"] == pytest.approx(float(u.square().sum()) / LR, rel=1e-9)
    before, after = (_squared(each(x), target).item() / 8 for each in (begun, stage))
    assert found["curvature/decrease_proposed"] == pytest.approx(before - after, rel=0.05)  # the model is a quadratic
    assert found["curvature/decrease"] > found["curvature/decrease_proposed"]
    assert found["curvature/unsolved"] == 0
    assert not any(name.startswith(("curvature/used_rate", "curvature/lent")) for name in found)


@pytest.mark.parametrize("loss", ["linear", "rough"])
def test_moment_without_rates_or_derivatives_is_counted_and_steps_stay_as_proposed(loss: str, tmp_path: Path) -> None:
    """A loss without curvature; and one whose second derivative is infinite where the run begins."""
    settings: dict[str, Any] = {"loss": _linear if loss == "linear" else _rough, "optimizer": _only_last_bias}
    curvature = StageCurvature(by="stage", settings=EXACTLY, acts=True)
    acting, plain = _trained(tmp_path, curvature=curvature, **settings), _trained(**settings)
    for name, own in acting[0].named_parameters():
        assert torch.equal(own, plain[0].get_parameter(name))
    assert _measured(tmp_path)["curvature/unsolved"] == 1


def _linear(y: Tensor, target: Tensor) -> Tensor:
    return y.sum()


def _rough(y: Tensor, target: Tensor) -> Tensor:
    return (y.sum(1) - y.sum(1).detach()).abs().pow(1.5).sum() + y.sum()
