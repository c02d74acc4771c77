"""Do the ways of using late gradients still train what they say, and does the table claim no more than its results?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.delayed_gradients import config as rows
from experiments.delayed_gradients import table
from experiments.delayed_gradients.config import METHODS, RATES, STALENESS
from experiments.delayed_gradients.results import Run, best_rates, counted
from experiments.delayed_gradients.run import Options, first_jobs, further_jobs, measure


@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pictures instead of the data set."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 784, generator=drawn), torch.randint(10, (256,), generator=drawn)
    small = rows.Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)
    monkeypatch.setattr(rows, "split", lambda: small)
    monkeypatch.setattr("experiments.delayed_gradients.run.split", lambda: small)


def run_of(method: str, staleness: int, rate: float, seed: int, accuracy: float | None) -> Run:
    return Run(
        method=method,
        staleness=staleness,
        rate=rate,
        seed=seed,
        steps=1,
        held_out_accuracy=accuracy,
        test_accuracy=None if accuracy is None else accuracy / 2,
        staleness_mean=1.0,
        held_bytes=2**20,
        parameter_bytes=1,
        wall_s=1.0,
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )


@pytest.mark.experiment
@pytest.mark.parametrize("method", METHODS)
def test_method_takes_a_few_steps_at_the_staleness_it_is_given(method: str) -> None:
    late = 2 if METHODS[method].late else 0
    (job, *_) = first_jobs(Options(only=(method,), staleness=(2,), steps=8), ())
    run = measure(replace(job, rate=0.01))
    assert (run.method, run.staleness, run.steps) == (method, late, 8)
    assert run.test_accuracy is not None and run.held_bytes > 0
    # 0, 1, 2, 2, ...; all of step 7 is late, too.
    assert run.staleness_mean == pytest.approx(sum(min(step, late) for step in range(8)) / 8)


@pytest.mark.experiment
def test_run_that_diverges_is_recorded_as_such() -> None:
    (job, *_) = first_jobs(Options(only=("graph",), staleness=(2,), steps=40), ())
    run = measure(replace(job, rate=1e6))
    assert (run.test_accuracy, run.held_out_accuracy, run.staleness_mean) == (None, None, None)


def test_first_seed_is_run_with_every_rate_and_the_others_with_the_best() -> None:
    options = Options(only=("stash",), staleness=(1, 4), seeds=(0, 1))
    jobs = first_jobs(options, [run_of("stash", 1, RATES[0], 0, 0.5)])
    assert len(jobs) == 2 * len(RATES) - 1 and {job.seed for job in jobs} == {0}
    runs = [run_of("stash", 4, rate, 0, found) for rate, found in zip(RATES, (0.5, 0.7, 0.6, None), strict=True)]
    (further,) = further_jobs(options, runs)
    assert (further.staleness, further.rate, further.seed) == (4, RATES[1], 1)
    assert further_jobs(options, [*runs, run_of("stash", 4, RATES[1], 1, 0.7)]) == []
    with pytest.raises(ValueError, match="found nonsense"):
        first_jobs(Options(only=("nonsense",)), ())


def test_table_shows_the_best_rate_what_diverged_and_what_was_not_run() -> None:
    runs = [run_of("stash", 1, RATES[0], seed, 0.8 + seed / 10) for seed in (0, 1)]
    runs += [run_of("stash", 1, RATES[1], 0, 0.7), run_of("stash", 2, RATES[0], 0, None)]
    assert best_rates(runs) == {("stash", 1): RATES[0], ("stash", 2): RATES[0]}
    parts = table.render(counted(runs))
    assert "| weights stashed |  | 42.50 ± 3.54 | diverged | not run | not run |" in parts["accuracy"]
    assert "| weights stashed |  | 1.00 | 1.00 | not run | not run |" in parts["memory"]
    missing = list(table.failures(counted(runs)))
    assert "stash at staleness 1: needs 3 seeds, has 2" in missing
    assert len(missing) == 1 + (len(METHODS) - 1) * len(STALENESS)
