"""Are settings checked before anything starts, and is a run one frozen value?"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from dni import Bernoulli, NoGradient, SyntheticGradient, TrueGradient
from pipeline import Adam, Config, Data, KeyedBatches, Sgd, partition, prepare
from pipeline.clock import VirtualClock
from pipeline.configuration.config import per_stage
from pipeline.configuration.run import build_stage
from pipeline.errors import ConfigurationError

X, TARGET = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))


def _config(**more: Any) -> Config:
    settings: dict[str, Any] = {
        "model": _network,
        "data": lambda: Data(train=KeyedBatches(X, TARGET, batch_size=4)),
        "loss": nn.CrossEntropyLoss(),
        "steps": 3,
        "num_stages": 3,
    }
    return Config(**{**settings, **more})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"num_stages": 0}, "num_stages must be at least 1, got 0"),
        ({"num_ranks": 0}, "num_ranks must be at least 1, got 0"),
        ({"delay": (2, 0)}, r"delay must be at least 1, got \(2, 0\)"),
        ({"max_in_flight": (0,)}, r"max_in_flight must be at least 1"),
        ({"num_threads": 0}, "num_threads must be at least 1"),
        ({"evaluate_every": -1}, "evaluate_every must be at least 0, got -1"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 0"),
        ({"check_every": -1}, "check_every must be at least 0"),
        ({"measure_every": -1}, "measure_every must be at least 0"),
        ({"measure_updates_every": -1}, "measure_updates_every must be at least 0"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"clip_norm": 0.0}, "clip_norm must be positive .* got 0.0"),
        ({"clip_norm": math.nan}, "clip_norm must be positive"),
        ({"cadence": (1, 0)}, "cadence's period must be at least 1 step, got 0"),
        ({"update_probability": (0.5, 1.5)}, r"must lie in \[0, 1\], got 1.5"),
    ],
)
def test_setting_out_of_its_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _config(**settings)
    with pytest.raises(ConfigurationError, match=message):
        replace(_config(), **settings)


def test_configuration_cannot_be_changed_only_replaced() -> None:
    config = _config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 5  # type: ignore[misc]
    assert replace(config, steps=5).steps == 5 and config.steps == 3
    with pytest.raises(TypeError):
        Config(_network, None, None)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cadence": (1, 2)}, r"cadence takes 1 value or 3 \(one each\), got 2: \(1, 2\)"),
        ({"update_probability": (1.0,) * 4}, "update_probability takes 1 value or 3"),
        ({"delay": (1, 2, 3)}, "delay takes 1 value or 2"),
        ({"arrival": "ready", "max_in_flight": (1, 2, 3)}, "max_in_flight takes 1 value or 2"),
        ({"source": (TrueGradient(),) * 3}, "source takes 1 value or 2"),
        ({"source": nn.Linear(2, 2)}, r"must be a GradientSource \(needs, learns_from.*got Linear"),
        ({"num_ranks": 4}, "4 ranks cannot share 3 stages"),
        ({"num_stages": None}, "give num_stages, or at="),
        ({"model": lambda: partition(_network(), 3), "num_stages": 2}, "already cut into 3 stages"),
        ({"model": lambda: partition(_network(), 3), "num_stages": None, "at": ("2",)}, "already cut into 3"),
        ({"data": lambda: Data(train=[])}, "holds no batch"),
        ({"data": lambda: Data(train=7)}, "got int"),
    ],
)
def test_settings_that_do_not_fit_the_network_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepare(_config(**settings))


def test_more_ranks_than_stages_are_refused_also_when_torchrun_has_started_them() -> None:
    with pytest.raises(ConfigurationError, match="4 ranks cannot share 3 stages"):
        prepare(_config(), num_ranks=4)
    assert prepare(_config(), num_ranks=2).num_stages == 3


def test_one_value_serves_all_stages() -> None:
    assert per_stage((3,), 4, name="x") == [3, 3, 3, 3]
    assert per_stage((3, 4), 2, name="x") == [3, 4]
    assert per_stage((3,), 0, name="x") == []


def test_every_stage_gets_its_own_settings() -> None:
    prepared = prepare(
        _config(
            cadence=(1, 2, 3),
            update_probability=(0.1, 0.2, 0.3),
            delay=(4, 5),
            source=(SyntheticGradient(), NoGradient()),
            sync=Bernoulli(0.25),
            seed=9,
        )
    )
    stages = [build_stage(prepared, index, clock=VirtualClock(lambda s, o: 0.0)) for index in range(3)]
    assert [s.learner.due(1) for s in stages] == [True, True, False]
    assert [s.settings.update_probability.probability for s in stages] == [0.1, 0.2, 0.3]
    assert [s.settings.max_in_flight for s in stages] == [4, 5, 1]
    assert [type(s.learner.source).__name__ for s in stages] == ["SyntheticGradient", "NoGradient", "LossGradient"]
    assert {s.settings.sync for s in stages} == {Bernoulli(0.25)} and {s.settings.seed for s in stages} == {9}
    assert set(stages[1].named_tensors()) == set(prepared.cut.names(1).values())


def test_bound_is_the_delay_in_fixed_order_and_max_in_flight_otherwise() -> None:
    for arrival, bounds in (("fixed", [2, 2]), ("ready", [4, 4])):
        assert prepare(_config(arrival=arrival)).bounds == bounds


def test_every_boundary_gets_a_copy_of_the_source() -> None:
    given = SyntheticGradient()
    sources = prepare(_config(source=given)).sources
    assert len({id(source) for source in (*sources, given)}) == 4


def test_initial_weights_depend_on_the_seed_only() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.rand(3)
        return [p for s in prepare(_config(seed=seed)).cut.stages for p in s.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert not torch.equal(weights(1)[0], weights(2)[0])


def test_prepare_leaves_the_global_generator_alone() -> None:
    def data() -> Data:
        torch.rand(5)
        return Data(train=KeyedBatches(X, TARGET, batch_size=4))

    torch.manual_seed(2)
    prepare(_config(data=data))
    drawn = torch.rand(1)
    torch.manual_seed(2)
    assert torch.equal(drawn, torch.rand(1))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Adam(lr=0.02, betas=(0.8, 0.9), weight_decay=0.1), {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.1}),
        (Sgd(lr=0.3, momentum=0.5, weight_decay=0.2), {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.2}),
    ],
)
def test_optimizers_have_the_settings_they_were_given(ours: Adam | Sgd, theirs: dict[str, Any]) -> None:
    optimizer = ours(nn.Linear(2, 2).parameters())
    assert type(optimizer).__name__.lower() == type(ours).__name__.lower()
    assert {name: optimizer.defaults[name] for name in theirs} == theirs
