"""Does each named method come out as its paper draws it?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient, Every, Never, SyntheticGradient, TrueGradient
from pipeline.configuration import methods
from pipeline.configuration.config import Config, Data, Sgd
from pipeline.configuration.methods import MethodName
from pipeline.configuration.run import prepare
from pipeline.data.feed import KeyedBatches
from pipeline.errors import ConfigurationError
from pipeline.executors.training import run_simulated
from tests.pipeline.chain import WIDTH, features, labels, linear

STEPS = 8


def _config(num_stages: int = 3, **more: Any) -> Config:
    x, target = features(0, num_samples=8), labels(0, num_samples=8)
    return Config(
        model=lambda: [linear(index) for index in range(num_stages)],
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=2)),
        loss=nn.CrossEntropyLoss(),
        optimizer=Sgd(lr=0.1),
        steps=STEPS,
        **more,
    )


def _stages(config: Config, what: str) -> list[Any]:
    return [stage[what] for stage in run_simulated(prepare(config)).summary["stages"]]


def test_pipelines_hold_as_many_microbatches_as_their_papers_say() -> None:
    config = _config(4)
    assert _stages(methods.backprop(config), "most_held") == [1, 1, 1, 0]
    assert _stages(methods.gpipe(config, num_microbatches=8), "most_held") == [8, 8, 8, 8]
    assert _stages(methods.one_f_one_b(config, num_microbatches=8), "most_held") == [4, 3, 2, 0]
    assert _stages(methods.pipedream(config), "most_held") == [4, 3, 2, 0]


@pytest.mark.parametrize("name", ["backprop", "gpipe", "1f1b"])
def test_methods_that_empty_the_pipeline_are_never_stale(name: MethodName) -> None:
    config = methods.by_name(name, _config(), num_microbatches=4)
    assert _stages(config, "staleness_max")[:2] == [0, 0]
    assert _stages(config, "updates") == [STEPS if name == "backprop" else STEPS // 4] * 3


@pytest.mark.parametrize("name", ["pipedream", "ddg", "features-replay"])
def test_late_methods_are_stale_by_the_distance_from_the_top(name: MethodName) -> None:
    config = methods.by_name(name, _config(4))
    assert _stages(config, "staleness_max") == [3, 2, 1, None]
    assert _stages(config, "updates") == [STEPS] * 4
    assert config.stash == ("recompute" if name == "features-replay" else "weights")


def test_decoupled_stages_hold_nothing() -> None:
    config = methods.decoupled(_config(source=ConditionalSyntheticGradient(WIDTH), sync=Bernoulli(0.5)))
    assert isinstance(config.source, ConditionalSyntheticGradient) and config.sync == Never()
    assert _stages(config, "most_held") == [0, 0, 0]
    assert _stages(config, "staleness_max") == [2, 2, None]
    assert methods.decoupled(config, sync=Every(3), delay=4).sync == Every(3)


def test_decoupled_run_does_not_take_over_a_source_that_waits() -> None:
    assert isinstance(methods.decoupled(_config(source=TrueGradient())).source, SyntheticGradient)
    with pytest.raises(ConfigurationError, match="do not wait for the gradient from above, got TrueGradient"):
        methods.decoupled(_config(), source=TrueGradient())


@pytest.mark.parametrize("name", get_args(MethodName))
def test_method_leaves_nothing_of_another_one(name: MethodName) -> None:
    config = _config(source=ConditionalSyntheticGradient(WIDTH), seed=3)
    other = replace(
        config, sync=Every(2), cadence=(3,), stash="recompute", prefer="activations", queue=("latest",), max_staleness=2
    )
    chosen, again = methods.by_name(name, config), methods.by_name(name, other)
    assert again == replace(chosen, source=again.source) and type(again.source) is type(chosen.source)
    assert chosen.seed == 3 and chosen.optimizer == Sgd(lr=0.1)


def test_stages_are_counted_from_num_stages_or_the_cut_or_the_model() -> None:
    network = nn.Sequential(*(linear(index) for index in range(6)))
    whole = replace(_config(), model=lambda: network)
    assert methods.pipedream(replace(whole, num_stages=4)).delay == (4, 3, 2)
    assert methods.pipedream(replace(whole, at=("2", "4"))).delay == (3, 2)
    assert methods.pipedream(_config(1)).delay == (1,)
    assert methods.pipedream(_config(3), num_stages=5).delay == (5, 4, 3, 2)
    with pytest.raises(ConfigurationError, match="set num_stages or at"):
        methods.pipedream(whole)


def test_window_of_no_microbatch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="num_microbatches must be at least 1, got 0"):
        methods.gpipe(_config(), num_microbatches=0)
