"""Is curvature that cannot be measured, or may not act, refused before a run, and does its plan show the rest?"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dni import (
    MLP,
    BlockCadence,
    ConditionalSyntheticGradient,
    Cosine,
    CurvatureSettings,
    FreezeOut,
    Layer,
    LocalLoss,
    Periodic,
    StageCurvature,
    SyntheticGradient,
    TrueGradient,
    WeightPrediction,
)
from pipeline import Config, ConfigurationError, Data, KeyedBatches, prepare
from pipeline.commands.display import plan_tables


def _config(*layers: nn.Module, curvature: Any, **more: Any) -> Config:
    """Two stages: linear, what is given, and then linear."""
    torch.manual_seed(0)
    x = torch.randn(12, 4)

    def model() -> list[nn.Module]:
        return [nn.Sequential(nn.Linear(4, 5), *layers), nn.Sequential(nn.Linear(5, 3))]

    return Config(
        model=model,
        data=lambda: Data(train=KeyedBatches(x, x[:, :3].argmax(1), batch_size=4)),
        loss=nn.CrossEntropyLoss(),
        steps=4,
        **{"source": LocalLoss(3), "curvature": curvature, **more},
    )


class _Twice(torch.autograd.Function):
    """Has one derivative."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * h

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * gradient


class _Rough(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return _Twice.apply(h)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ((nn.Dropout(0.5),), r"stage 0: its layer 0.1, a Dropout, draws at every forward"),
        ((nn.Tanh(), nn.BatchNorm1d(5)), r"its layer 0.2, a BatchNorm1d, normalises by the other samples"),
        ((_Rough(),), r"must have three derivatives, but a summary on 4 samples ended with"),
    ],
)
def test_stage_that_is_not_smooth_is_refused_and_may_be_left_out(layers: tuple[nn.Module, ...], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        prepare(_config(*layers, curvature=StageCurvature()))
    prepare(_config(*layers, curvature=(None, StageCurvature())))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (TrueGradient(), r"boundary 0-1: the source: TrueGradient implies no loss.*LocalLoss, SyntheticGradient"),
        (SyntheticGradient(MLP(hidden=(3,))), r"boundary 0-1: the source: .* got BatchNorm1d"),
    ],
)
def test_source_that_implies_no_loss_is_refused_by_its_boundary(source: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        prepare(_config(curvature=StageCurvature(), source=source))


@pytest.mark.parametrize(
    ("by", "says"),
    [
        ({"all": ["0.0", "1.0"], "more": ["1.0.bias"]}, r"stage 1: 1\.0\.bias must be in one subset only"),
        ({"some": ["0.0", "1.0.weight"]}, r"stage 1: every parameter must be in a subset.*1\.0\.bias are in none"),
        ({"all": ["0.0", "1.0", "2"]}, r"'2' is neither a parameter that learns nor a module with such"),
    ],
)
def test_subsets_that_miss_or_repeat_a_parameter_are_refused(by: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        prepare(_config(curvature=StageCurvature(by=by)))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"blocks": (BlockCadence(Layer("0.0"), Periodic(2)),)}, "blocks have cadences"),
        ({"participation": FreezeOut(steps=4)}, "and so does participation FreezeOut"),
        (
            {"source": TrueGradient(), "stash": "weights", "correction": WeightPrediction(momentum=0.0)},
            "correction WeightPrediction.* counts on steps as the optimiser proposes them",
        ),
    ],
)
def test_rates_may_not_act_where_others_move_the_weights_but_be_reported(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"curvature acts, (but|and).*{says}|{says}.*acts=False"):
        prepare(_config(curvature=(None, StageCurvature(acts=True)), **more))
    prepare(_config(curvature=(None, StageCurvature()), **more))


def test_schedule_of_steps_that_rates_scale_anyway_warns() -> None:
    with pytest.warns(UserWarning, match="a setting has little effect: schedule"):
        prepare(_config(curvature=StageCurvature(acts=True), schedule=Cosine(4)))


def test_what_is_no_setting_and_another_number_of_them_than_stages_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="curvature takes StageCurvature"):
        prepare(_config(curvature="tensor"))
    with pytest.raises(ConfigurationError, match="curvature takes 1 value or 2"):
        prepare(_config(curvature=(None, None, StageCurvature())))


def test_stage_without_parameters_that_learn_is_left_out() -> None:
    config = _config(curvature=StageCurvature())
    made = config.model()
    assert isinstance(made, list)
    made[0].requires_grad_(False)
    prepared = prepare(replace(config, model=lambda: made))
    assert [line[:20] for line in _lines(prepared)] == ["curvature of stage 1"]


def test_plan_says_what_is_measured_where() -> None:
    settings = CurvatureSettings(period=5)
    own = StageCurvature(by={"first": ["1.0"]}, acts=True, microbatches=3, settings=settings)
    source = ConditionalSyntheticGradient(3)
    assert _lines(prepare(_config(curvature=(StageCurvature(), own), source=source))) == [
        "curvature of stage 0: by tensor (2), at one in 10 updates, of the newest microbatch; reported only",
        "curvature of stage 1: by subsets of its own (1), at one in 5 updates, of the newest 3 microbatches; "
        "scales every update",
    ]


def _lines(prepared: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    console.print(plan_tables(prepared, placement=[0, 0]))
    assert isinstance(console.file, io.StringIO)
    return [line.strip() for line in console.file.getvalue().splitlines() if line.startswith("curvature")]
