"""Does the benchmark of sleeping stages still run, and does its README say no more than its results?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.sleeping_stages import run, table
from experiments.sleeping_stages.cases import Case, Sizes, all_cases, config
from experiments.sleeping_stages.predict import predict
from experiments.sleeping_stages.sleeper import SleepingStage
from experiments.sleeping_stages.steady import around_pause, message_ms, steady
from experiments.spans import Span
from pipeline import CostModel, prepare, run_simulated
from pipeline.transports.control import World
from tests.spawn import Ranks

OURS = Case(group="equal", method="decoupled, no syncs", first=2, microbatches=4)
THEIRS = replace(OURS, method="1F1B", schedule="Schedule1F1B", per_update=2)
ZERO_BUBBLE = replace(THEIRS, method="ZBV", schedule="ScheduleZBVZeroBubble", chunks=2, per_update=4, first=4)
LOSS = 3.962011
"""Of the second step."""


def _run(world: World, case: Case) -> list[list[Span]]:
    return run.run_case(case, world)


def test_stage_sleeps_in_the_forward_and_in_both_halves_of_the_backward() -> None:
    stage = SleepingStage(4, forward_s=0.001, backward_s=0.002)
    x = torch.randn(3, 4, requires_grad=True)
    stage(x).backward(torch.ones(3, 4))
    assert stage.spans[0].operation == "F"
    assert sorted(span.operation for span in stage.spans) == ["B", "F", "W"]
    assert all(span.end_s - span.start_s >= 0.001 and span.step == 0 for span in stage.spans)
    assert x.grad is not None and torch.allclose(x.grad, torch.ones(3, 4) @ stage.weight)
    assert stage.weight.grad is not None and torch.allclose(stage.weight.grad, torch.ones(4, 3) @ x)


def test_first_stage_sleeps_as_long_as_the_others() -> None:
    stage = SleepingStage(4, forward_s=0.001, backward_s=0.002)
    stage(torch.randn(3, 4)).sum().backward()
    assert sorted(span.operation for span in stage.spans) == ["B", "F", "W"]


def test_measured_are_the_operations_between_the_first_and_the_last_microbatch() -> None:
    spans = [
        Span(operation, step, step * 10.0 + begin, step * 10.0 + begin + length)
        for step in range(8)
        for operation, begin, length in (("F", 0.0, 1.0), ("B", 1.0, 2.0), ("U", 4.0, 0.5))
    ]
    assert steady(spans, OURS) == {
        "period_ms": 10_000.0,
        "own_ms": 3_500.0,
        "operations": {"F": 1_000.0, "B": 2_000.0, "U": 500.0},
    }


def test_lost_is_what_the_microbatches_took_beyond_the_pace_before_the_pause() -> None:
    case = replace(OURS, group="paused", microbatches=16)
    paces = [[1.0] * 20, [1.0] * 10 + [6.0] + [1.0] * 9]  # rank 1 pauses at microbatch 10
    ranks, at = [], 10
    for pace in paces:
        starts = [sum(pace[:step]) for step in range(20)]
        ranks.append([Span("F", step, starts[step], starts[step] + 0.5 * pace[step]) for step in range(20)])
    assert case.pause_at == at
    lower, paused = around_pause(ranks, case)
    assert (lower["forwards"], lower["busy_s"], lower["lost_s"]) == (3, 1.5, 0.0)
    assert (paused["busy_s"], paused["lost_s"]) == (0, 5.0)


@pytest.mark.experiment
def test_benchmark_trains_two_steps_with_the_losses_written_down() -> None:
    losses: list[float] = []
    asked = replace(config(OURS, 3, costs=CostModel()), log_every=1, arrival="fixed", steps=2)
    run_simulated(prepare(asked), on_status=lambda statuses: losses.append(statuses[-1].loss))
    assert losses[-1] == pytest.approx(LOSS, rel=1e-4)


@pytest.mark.distributed
@pytest.mark.experiment
@pytest.mark.parametrize("case", [OURS, THEIRS, ZERO_BUBBLE], ids=lambda case: case.method)
def test_every_rank_sleeps_for_every_microbatch_and_it_is_recorded(case: Case, ranks: Ranks, tmp_path: Path) -> None:
    spans, nothing = ranks.run(_run, case, world_size=2)
    assert not nothing and len(spans) == 2
    steps = case.steps if not case.schedule else case.num_updates * case.per_update
    for rank in spans:
        assert sum(span.operation == "F" for span in rank) == steps * case.chunks
    line = run.record(case, spans, run.Options(out=tmp_path, repeats=1, label="now"), repeat=0)
    assert line["period_ms"] > 0 and all(own_ms >= 29 for own_ms in line["own_ms"])
    rows = table.read_rows(tmp_path / "results.jsonl")
    assert [row.ratio > 0 for row in rows.values()] == [True]
    assert case.method in table.render(rows)["equal"]


@pytest.mark.experiment
def test_simulator_predicts_a_case_from_the_costs_of_operations() -> None:
    found = predict(OURS, 2, {"F": 10.0, "B": 20.0, "L": 1.0, "U": 0.5}, message_ms=0.3)
    assert found == {"period_ms": pytest.approx(31.5), "pause": []}


def test_way_of_a_message_is_read_where_true_gradients_go_down_without_a_stop() -> None:
    synced = [[Span("B", 0, 4.5, 6.0)], [Span("B", 0, 2.3, 4.0)], [Span("B", 0, 0.0, 2.0)]]
    assert message_ms(synced) == pytest.approx(400.0), "the median of 300 and 500"
    decoupled = [[Span("B", 0, 1.0, 2.0)], [Span("B", 0, 2.3, 4.0)], [Span("B", 0, 4.5, 6.0)]]
    assert message_ms(decoupled) is None


def test_cases_have_names_of_their_own_and_torchs_end_with_whole_updates() -> None:
    for num_ranks in (2, 4, 8):
        cases = all_cases(num_ranks, Sizes())
        assert len({case.name for case in cases}) == len(cases)
        for case in cases:
            assert case.first % case.per_update == case.microbatches % case.per_update == 0
            assert case.num_updates * case.per_update > case.last if case.schedule else case.steps > case.last
