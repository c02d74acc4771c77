"""Do methods take the time their papers say, and which means are used to find it out?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import nn

from dni import SyntheticGradient
from pipeline.configuration.config import Config, Data
from pipeline.configuration.methods import MethodName
from pipeline.configuration.run import prepare
from pipeline.data.feed import KeyedBatches
from pipeline.executors.training import run_simulated
from pipeline.stages.arrival import Arrival
from pipeline.virtual_time.costs import CostModel, measured_costs
from pipeline.virtual_time.rehearsal import choose_way, rehearse
from tests.pipeline.chain import features, labels, linear
from tests.pipeline.timed_chain import timed_chain, timed_method


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("num_stages", "num_microbatches"), [(2, 1), (3, 8), (8, 8), (16, 4), (5, 3)])
def test_flushed_pipelines_take_their_textbook_time(name: MethodName, num_stages: int, num_microbatches: int) -> None:
    """(M + S - 1)(F + B) for each window of M microbatches on S equal stages.    Source: Huang et al. 2019, 2.3."""
    costs = CostModel(forward_s=1.0, backward_s=2.0, update_s=0.0, message_s=0.0)
    windows = 3
    prepared = timed_method(
        name, num_stages, num_microbatches=num_microbatches, steps=windows * num_microbatches, costs=costs
    )
    timing = rehearse(prepared, way="stages").timing
    assert timing.end_s == windows * (num_microbatches + num_stages - 1) * 3.0
    assert timing.steady_period_s(num_microbatches) == (num_microbatches + num_stages - 1) * 3.0 / num_microbatches
    assert timing.fresh.tolist() == pytest.approx([num_microbatches / (num_microbatches + num_stages - 1)] * num_stages)


@pytest.mark.parametrize("slow", [0, 2, 5])
def test_decoupled_stages_go_at_the_pace_of_the_slowest_of_them(slow: int) -> None:
    costs = CostModel(forward_s=1.0, backward_s=2.0, learn_s=0.5, update_s=0.0, message_s=0.1, slow=((slow, 2.0),))
    timing = rehearse(timed_method("decoupled", 6, steps=40, costs=costs), way="stages").timing
    own_s = 6.0 if slow == 5 else 7.0  # no source learns at the last stage
    assert timing.steady_period_s() == pytest.approx(own_s)
    assert timing.busy_s[slow] == pytest.approx(40 * own_s)


def test_late_methods_go_at_the_pace_of_the_slowest_stage_and_backprop_at_that_of_all() -> None:
    costs = CostModel(forward_s=1.0, backward_s=2.0, update_s=0.25, message_s=0.0)
    periods_s = {
        name: rehearse(timed_method(name, 4, steps=40, costs=costs), way="stages").timing.steady_period_s()
        for name in ("pipedream", "features-replay", "backprop")
    }
    assert periods_s == pytest.approx({"pipedream": 3.25, "features-replay": 4.25, "backprop": 12.25})


def test_lone_pause_costs_the_others_no_more_than_their_bound_makes_them_wait() -> None:
    """With room for 8 microbatches, a pause of 12 s in a chain whose stages take 3 s each is nothing to those below."""
    costs = CostModel(forward_s=1.0, backward_s=2.0, learn_s=0.0, update_s=0.0, message_s=0.0)
    chain = timed_chain("synthetic", 4, steps=60, delay=(8,), costs=costs)
    paused = replace(chain, config=replace(chain.config, costs=replace(costs, pauses=((2, 30.0, 12.0),))))
    undisturbed, disturbed = (rehearse(run, way="stages", drawn=range(4)).timing for run in (chain, paused))
    for stage in (0, 1):
        ends = [[event.end_s for event in t.events[stage] if event.operation != "L"] for t in (undisturbed, disturbed)]
        assert ends[0] == ends[1], "nobody below notices, but that some gradients come late"
    assert disturbed.end_s == undisturbed.end_s + 12.0, "who is never idle cannot catch up"


@pytest.mark.parametrize("arrival", ["ready", "fixed"])
def test_jitter_does_not_depend_on_who_goes_first(arrival: Arrival) -> None:
    """The n-th forward of a stage takes as long whatever the method, the order, or the number of stages."""
    costs = CostModel(jitter=0.5, message_s=0.0)
    runs = [
        timed_method("pipedream", 3, steps=9, arrival=arrival, costs=costs),
        timed_method("decoupled", 5, steps=9, arrival=arrival, costs=costs),
    ]
    spent = []
    for prepared in runs:
        events = rehearse(prepared, way="stages", drawn=[1]).timing.events[1]
        spent.append([event.end_s - event.start_s for event in events if event.operation == "F"])
    assert spent[0] == pytest.approx(spent[1]) and len(set(spent[0])) == 9


def test_recursion_is_chosen_for_what_is_long_and_lets_itself_be_computed() -> None:
    assert choose_way(timed_method("1f1b", 100, steps=100)) == "stages"
    assert choose_way(timed_method("1f1b", 1000, steps=1000)) == "recursion"
    assert choose_way(timed_method("1f1b", 1000, steps=1000, arrival="ready")) == "stages"


def test_rehearsal_with_mathematics_trains_as_the_simulation_does_and_takes_the_same_time() -> None:
    x, target = features(0, num_samples=6), labels(0, num_samples=6)

    def config(**more: Any) -> Config:
        return Config(
            model=lambda: [linear(0), linear(1)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=2)),
            loss=nn.CrossEntropyLoss(),
            steps=8,
            **more,
        )

    steps: list[int] = []
    trained = rehearse(prepare(config()), way="mathematics", on_step=steps.append)
    summary = run_simulated(prepare(config(log_every=8))).summary
    assert trained.loss == pytest.approx(summary["train_loss"])
    assert steps[-1] == 8 and steps == sorted(steps)
    timed = rehearse(prepare(config()), way="stages")
    assert timed.loss is None and timed.timing.done_s.tolist() == trained.timing.done_s.tolist()


def test_costs_that_a_run_measured_are_those_it_was_given() -> None:
    costs = CostModel(forward_s=(1.0, 2.0), backward_s=(3.0, 4.0), learn_s=(0.5, 0.5), update_s=(0.1, 0.2))
    x, target = features(0, num_samples=6), labels(0, num_samples=6)
    run = Config(
        model=lambda: [linear(0), linear(1)],
        data=lambda: Data(train=KeyedBatches(x, target, batch_size=2)),
        loss=nn.CrossEntropyLoss(),
        source=SyntheticGradient(),
        steps=6,
        costs=costs,
    )
    measured = measured_costs(CostModel(), run_simulated(prepare(run)).summary["stages"])
    assert measured.means(2).keys() == costs.means(2).keys()
    for operation, seconds in costs.means(2).items():
        assert measured.means(2)[operation] == pytest.approx(seconds), operation


def test_dropped_work_is_counted_apart() -> None:
    costs = CostModel(forward_s=1.0, backward_s=2.0, learn_s=0.0, update_s=0.0, message_s=0.0, slow=((1, 3.0),))
    chain = timed_chain("synthetic", 2, steps=30, arrival="ready", max_in_flight=(9,), queue=("latest",), costs=costs)
    timing = rehearse(chain, way="stages").timing
    assert timing.forwards[0] == 30 and timing.forwards[1] == len(timing.done_s) < 15
    assert timing.dropped_s.tolist() == [30.0 - timing.forwards[1], 0.0]
    assert timing.fresh + timing.waiting + timing.dropped == pytest.approx(1.0)


def test_rehearsal_of_nothing_but_zeros_has_no_shares() -> None:
    nothing = CostModel(forward_s=0.0, backward_s=0.0, learn_s=0.0, update_s=0.0, message_s=0.0)
    timing = rehearse(timed_chain("synthetic", 3, steps=4, costs=nothing), way="stages").timing
    assert timing.end_s == timing.period_s() == timing.steady_period_s() == 0.0
    assert timing.waiting.tolist() == [1.0, 1.0, 1.0]
