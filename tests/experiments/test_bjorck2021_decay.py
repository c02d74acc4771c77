"""Do the weights decay when they should, is what counts chosen on held-out samples, and is the table its results?"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from dni import Within
from experiments.bjorck2021_decay import config as rows
from experiments.bjorck2021_decay import table
from experiments.bjorck2021_decay.config import ARMS, INVARIANT, NONE, STUDIES, Settings, Split, Study, config
from experiments.bjorck2021_decay.picture import draw
from experiments.bjorck2021_decay.results import (
    Case,
    Run,
    append_run,
    best_rates,
    best_strengths,
    counted,
    of_study,
    read_expected,
    read_runs,
)
from experiments.bjorck2021_decay.run import Job, measure, rate_jobs, strength_jobs, window_jobs

FIRST, MAIN = table.FIRST, table.MAIN
SHORT = Settings(num_samples=96, batch_size=32, steps=20, measure_every=1, num_points=4)
NAMES = [f"{measure}/0.{name}" for measure in ("weight_norm", "angular_update") for name in INVARIANT]


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pictures instead of the data set."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 784, generator=drawn), torch.randint(10, (128,), generator=drawn)
    small = Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)
    monkeypatch.setattr(rows, "split", lambda data: small)
    monkeypatch.setattr("experiments.bjorck2021_decay.run.split", lambda data: small)


def run_of(optimizer: str, window: str, *, held_out: float | None = 0.8, seed: int = 0, **more: object) -> Run:
    run = Run(
        optimizer=optimizer,
        coupling="" if window == NONE else "coupled",
        window=window,
        rate=0.1,
        strength=0.0 if window == NONE else 1e-3,
        seed=seed,
        train_loss=None if held_out is None else 0.1,
        held_out_accuracy=held_out,
        test_accuracy=None if held_out is None else held_out - 0.1,
        course={} if held_out is None else {name: [2.0 if window == NONE else 0.5] * 8 + [9.0] * 2 for name in NAMES},
        wall_s=1.0,
        settings=asdict(MAIN.settings),
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )
    return replace(run, **more)  # type: ignore[arg-type]


@pytest.mark.experiment
def test_run_learns_and_its_updates_are_measured_over_its_parts(noise: None, tmp_path: Path) -> None:
    job = Job(optimizer="SGD", rate=0.01, seed=0, window="first 25 %", coupling="decoupled", strength=1.0)
    run = measure(job, SHORT)
    assert run.case == Case("SGD", "decoupled", "first 25 %") and run.test_accuracy is not None
    assert set(NAMES) <= set(run.course) and {len(values) for values in run.course.values()} == {4}
    append_run(run, tmp_path / "results.jsonl")
    assert read_runs(tmp_path / "results.jsonl") == [run]


@pytest.mark.experiment
def test_run_that_diverges_is_recorded_as_such(noise: None) -> None:
    run = measure(Job(optimizer="SGD", rate=1e30, seed=0), SHORT)
    assert (run.test_accuracy, run.train_loss, run.course) == (None, None, {})


def test_windows_are_parts_of_the_run_and_the_quarters_one_that_slides(noise: None) -> None:
    def window(name: str) -> object:
        made = config(
            "Adam", rate=1e-3, coupling="coupled", strength=0.1, window=name, seed=0, settings=Settings()
        ).weight_decay
        assert made is not None
        return made.schedule

    assert window("first 10 %") == Within(0, 200) and window("last 50 %") == Within(1000, 2000)
    quarters = [window(name) for name in ("first 25 %", "second 25 %", "third 25 %", "last 25 %")]
    assert quarters == [Within(start, start + 500) for start in (0, 500, 1000, 1500)]


def test_rate_is_a_tenth_after_it_drops_and_the_part_before_that_is_the_last_at_the_full_one(noise: None) -> None:
    def rates(settings: Settings) -> list[float]:
        made = config("SGD", rate=1.0, coupling="coupled", strength=0.0, window="all", seed=0, settings=settings)
        assert callable(made.schedule)
        return [made.schedule(step) for step in (0, 1599, 1600, 1999)]

    assert rates(Settings()) == [1, 1, 1, 1] and Settings().last_at_full_rate == 9
    dropped = Settings(drop_at=0.8)
    assert rates(dropped) == pytest.approx([1, 1, 0.1, 0.1]) and dropped.last_at_full_rate == 7


def test_drawn_labels_are_the_same_in_every_run_and_about_as_many_as_asked_for(noise: None) -> None:
    def labels(wrong: float, seed: int) -> torch.Tensor:
        settings = Settings(num_samples=100, wrong_labels=wrong)
        made = config("SGD", rate=1.0, coupling="coupled", strength=0.0, window="all", seed=seed, settings=settings)
        return made.data().train.target

    true = rows.split("Fashion-MNIST").train_y[:100]
    assert torch.equal(labels(0.0, 0), true)
    assert torch.equal(labels(0.4, 0), labels(0.4, 1)) and 20 < int((labels(0.4, 0) != true).sum()) < 50


def test_line_without_the_later_settings_is_of_the_first_study() -> None:
    old = run_of("SGD", NONE, settings={"batch_size": 100, "steps": 2000, "measure_every": 10, "num_points": 10})
    assert of_study([old, run_of("SGD", NONE)], FIRST) == [old]
    assert len({study.settings for study in STUDIES}) == len(STUDIES)


def test_rate_then_strength_are_the_best_on_held_out_samples_and_the_rest_is_run_with_them() -> None:
    assert len(rate_jobs(MAIN)) == sum(map(len, MAIN.rates.values()))
    runs = [run_of("SGD", NONE, rate=0.3, held_out=None), run_of("SGD", NONE, rate=0.03, held_out=0.9)]
    runs += [run_of("SGD", NONE, rate=0.01), run_of("Adam", NONE, rate=1e-3)]
    assert best_rates(runs, MAIN) == {"SGD": 0.03, "Adam": 1e-3}
    assert {(job.optimizer, job.rate) for job in strength_jobs(runs, MAIN)} == {("SGD", 0.03), ("Adam", 1e-3)}
    for arm in ARMS:
        rate = best_rates(runs, MAIN)[arm.optimizer]
        for strength, found in zip(MAIN.strengths[arm], (0.5, 0.7, None, 0.7), strict=True):
            run = run_of(arm.optimizer, "all", rate=rate, coupling=arm.coupling, strength=strength, held_out=found)
            runs.append(run)
    assert best_strengths(runs, MAIN) == {arm: MAIN.strengths[arm][1] for arm in ARMS}
    runs.append(run_of("SGD", "all", held_out=0.99, strength=3e-4))  # at a rate that was not taken
    assert best_strengths(runs, MAIN)[ARMS[0]] == MAIN.strengths[ARMS[0]][1]
    jobs = window_jobs(runs, MAIN, seeds=(0, 1))
    assert len(jobs) == 2 * (2 + len(ARMS) * len(MAIN.windows))
    assert {job.strength for job in jobs if (job.optimizer, job.coupling) == ("Adam", "decoupled")} == {1.0}
    assert not window_jobs(runs, Study(title="", settings=Settings(), rates={}, strengths={}))


def test_table_shows_gains_seed_by_seed_what_diverged_and_what_was_not_run(tmp_path: Path) -> None:
    runs = [run_of("SGD", NONE, seed=seed, held_out=0.8 + seed / 10) for seed in (0, 1)]
    runs += [run_of("SGD", "all", seed=seed, held_out=0.81 + seed / 10) for seed in (0, 1)]
    runs += [run_of("SGD", "first 25 %", seed=seed) for seed in (0, 1)] + [run_of("SGD", "last 50 %", held_out=None)]
    parts = table.render(runs)
    assert "| all | 76.00 ± 7.07 | not run | not run | not run |" in parts["accuracy"]
    assert "| none | 75.00 ± 7.07 | 75.00 ± 7.07 | not run | not run |" in parts["accuracy"]
    assert "| all | +1.00 ± 0.00 | not run" in parts["gains"]
    assert "| last 50 % | diverged | not run" in parts["gains"]
    assert "| first 25 % | 0.50 ± 0.00 | not run" in parts["norms"]
    assert "| first 10 % |" in parts["first gains"] and "| first 10 % |" not in parts["gains"]
    tried = "| SGD, coupled | **0.1: 80.00** | at 0.1: **0.001: 81.00** | +1.00 |"
    assert f"| {MAIN.title} {tried}" in parts["tries"] and f"| {FIRST.title} | SGD, coupled | not run" in parts["tries"]
    found = table.measured(runs)
    assert found["sgd_coupled_all"] == pytest.approx([1, 1]) and found["sgd_coupled_norm"] == [0.25, 0.25]
    assert found.keys() == read_expected().keys()
    assert "sgd_coupled_all: needs 3 seeds, has 2; run it" in table.failures(read_expected(), runs)
    assert table.failures(read_expected(), []) == []
    draw(counted(runs, MAIN), tmp_path / "course.png", settings=MAIN.settings)
    assert (tmp_path / "course.png").stat().st_size > 10_000


def test_tables_in_the_readme_are_what_was_recorded() -> None:
    assert table.main(check=True) == 0
