"""Does the race to an accuracy still train what it says, read its times rightly, and claim no more than its results?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from experiments.spans import Span
from experiments.time_to_accuracy.alone import train_alone
from experiments.time_to_accuracy.config import ROWS, TASKS
from experiments.time_to_accuracy.curve import Point, training_s
from experiments.time_to_accuracy.results import Run, fastest, newest
from experiments.time_to_accuracy.run import Options, pending_jobs
from experiments.time_to_accuracy.select import Candidate, chosen
from pipeline import Config, Data, KeyedBatches, prepare, run_simulated

LOSSES = {"one_64": 2.953945, "late_recompute": 3.028416, "cdni": 2.948661}
"""Of the second microbatch with seed 0."""


def noise(batch_size: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(512, 784, generator=generator), torch.randint(10, (512,), generator=generator)
    return Data(train=KeyedBatches(x, target, batch_size=batch_size), test=[(x[:256], target[:256])])


def small(row: str, *, steps: int) -> Config:
    """A row's configuration on noise, on one thread."""
    config = ROWS[row].config(TASKS["mnist"])
    data = partial(noise, ROWS[row].batch_size)
    return replace(config, data=data, steps=steps, evaluate_every=steps, executor="simulate", log_every=1)


def run_of(row: str, seed: int, reached_s: float, *, commit: str = "a") -> Run:
    return Run(
        task="mnist",
        row=row,
        seed=seed,
        points=(Point(4096, reached_s / 2, 0.9), Point(8192, reached_s, 0.96)),
        wall_s=1.0,
        cpu_s=1.0,
        load_before=0.0,
        machine={"commit": commit},
    )


@pytest.mark.experiment
@pytest.mark.parametrize("row", LOSSES)
def test_row_takes_two_steps_with_the_losses_written_down(row: str) -> None:
    losses: list[float | None] = []
    run_simulated(prepare(small(row, steps=2)), on_status=lambda statuses: losses.append(statuses[-1].loss))
    assert losses[-1] == pytest.approx(LOSSES[row], rel=1e-4)


@pytest.mark.experiment
@pytest.mark.parametrize(("alone", "stages", "updates"), [("one_64", "late_hold", 8), ("one_256", "gpipe", 2)])
def test_plain_loop_and_the_stages_that_wait_learn_the_same(alone: str, stages: str, updates: int) -> None:
    plain = prepare(small(alone, steps=updates))
    (point,) = train_alone(plain, batch_size=ROWS[alone].batch_size)
    result = run_simulated(prepare(small(stages, steps=8)))
    expected = torch.cat([p.flatten() for stage in plain.cut.stages for p in stage.parameters()])
    found = torch.cat([p.flatten() for stage in result.cut.stages for p in stage.parameters()])
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0 if alone == "one_64" else 1e-4)
    assert (point.samples, point.train_s > 0) == (512, True)


def test_time_of_training_leaves_out_what_lies_between_the_stretches() -> None:
    spans = [Span("F", 0, 1.0, 2.0), Span("B", 1, 2.0, 4.0), Span("F", 1, 2.5, 3.0), Span("F", 2, 9.0, 9.5)]
    assert training_s(spans, [2, 3]) == [3.0, 3.5]
    with pytest.raises(ValueError, match="before the evaluation at step 4"):
        training_s(spans, [2, 3, 4])


def test_what_was_measured_at_this_commit_is_not_measured_again() -> None:
    options = Options(only=("gpipe", "cdni"), data=("mnist",), seeds=(0, 1))
    runs = [run_of("gpipe", 0, 1.0), run_of("cdni", 1, 1.0, commit="older")]
    left = {(job.row, job.seed) for job in pending_jobs(options, runs, at_commit="a")}
    assert left == {("gpipe", 1), ("cdni", 0), ("cdni", 1)}
    with pytest.raises(ValueError, match="found nonsense"):
        pending_jobs(replace(options, only=("nonsense",)), runs, at_commit="a")


def test_fastest_of_a_family_is_told_by_the_median_of_its_seeds() -> None:
    times_s = {"dni": (1.0, 9.0, 9.0), "cdni": (5.0, 5.0, 20.0)}
    runs = newest(run_of(row, seed, found_s) for row, own in times_s.items() for seed, found_s in enumerate(own))
    assert fastest(runs, "mnist", "decoupled") == "cdni"
    assert fastest(runs, "mnist", "late") is None


def test_choice_reaches_the_target_with_the_least_arithmetic() -> None:
    slow = Candidate(
        task="mnist",
        method="cdni",
        rate=1e-3,
        synthesizer="linear",
        samples=(64, 128, 192),
        accuracies=(0.5, 0.96, 0.97),
        flops_per_sample=20,
        seed=0,
        commit=None,
        torch="",
    )
    cheap = replace(slow, rate=1e-4, flops_per_sample=10, accuracies=(0.5, 0.6, 0.95))
    never = replace(slow, rate=1e-5, flops_per_sample=1, accuracies=(0.5, 0.6, 0.7))
    assert chosen([slow, cheap, never])["mnist", "cdni"].rate == cheap.rate
