"""Does every arm change what it says, is all chosen on held-out samples, and do the tables say what the runs say?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.changing_structure import config, flops, sites, table
from experiments.changing_structure.arms import ARMS, FAMILIES, tasks_of
from experiments.changing_structure.config import RATES, SCREENING_SEED, SEEDS, make_config
from experiments.changing_structure.flops import equal_steps, sample_flops, spent
from experiments.changing_structure.intervals import interval
from experiments.changing_structure.networks import num_parameters
from experiments.changing_structure.picture import draw
from experiments.changing_structure.plan import ROUNDS, Job, full_jobs, site_of
from experiments.changing_structure.results import (
    Cell,
    Run,
    best_finalist,
    finalists,
    finals,
    rates,
    read_runs,
    screened,
)
from experiments.changing_structure.run import measure
from experiments.changing_structure.sites import SIZES, Site, Split, Task
from experiments.records import append_record
from pipeline import prepare

FASHION = Task("mlp", "fashion")


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few random pictures instead of the data sets: epochs of two steps, and networks of the usual size."""

    def small(data: str, size: str = "small") -> Split:
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(16, *((3, 32, 32) if data == "cifar" else (1, 28, 28)), generator=drawn)
        y = torch.randint(10, (16,), generator=drawn)
        return Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)

    for module in ("config", "run"):
        monkeypatch.setattr(f"experiments.changing_structure.{module}.split", small)
    for module in (sites, config, flops):
        monkeypatch.setattr(module, "BATCH_SIZE", 8)
    monkeypatch.setattr(sites, "SIZES", {"small": replace(SIZES["small"], num_training=16)})
    monkeypatch.setattr("experiments.changing_structure.plan.SIZES", sites.SIZES)


@pytest.fixture(scope="module")
def whole() -> list[Run]:
    """All runs of the plan, made up round after round."""
    runs: list[Run] = []
    for jobs in ROUNDS.values():
        done = {(run.cell, run.rate, run.seed) for run in runs}
        runs += [made_up(job) for job in dict.fromkeys(jobs(runs)) if (job.cell, job.rate, job.seed) not in done]
    return runs


def made_up(job: Job) -> Run:
    """Taylor at the ends of epochs is two points above the rest, which is all alike; the middle rate is best."""
    found = 80.0 + 2 * (job.cell.arm == "ends taylor") - (job.rate != RATES[1]) + 0.1 * job.seed
    final = job.seed != SCREENING_SEED
    return Run(
        arm=job.cell.arm,
        net=job.cell.task.net,
        data=job.cell.task.data,
        length=job.cell.length,
        source=job.cell.source,
        size=job.cell.size,
        rate=job.rate,
        seed=job.seed,
        steps=site_of(job.cell).steps,
        diverged=False,
        held_out_accuracy=None if final else found / 100,
        test_accuracy=found / 100 if final else None,
        train_loss=0.1,
        num_parameters=1000,
        forward_flops=1e9,
        sample_flops=1e3,
        num_changes={"prune units": 5},
        cpu_s=6.0,
        wall_s=12.0,
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )


def job_of(arm: str, task: Task | None = None, **more: object) -> Job:
    cell = Cell(arm, task or tasks_of(arm)[-1])
    return Job(cell=cell, rate=RATES[0], **{"seed": SCREENING_SEED, **more})  # type: ignore[arg-type]


@pytest.mark.experiment
@pytest.mark.parametrize("family", FAMILIES)
def test_an_arm_of_every_group_is_trained_and_its_events_happen(noise: None, family: str) -> None:
    own = FAMILIES[family]
    for arm in (own.baseline, *(group[0] for group in own.groups.values())):
        task = own.tasks[0]
        run = measure(job_of(arm, task))
        assert not run.diverged and run.held_out_accuracy is not None and run.test_accuracy is None
        events = ARMS[arm].events(Site(task=task, steps=18))
        if arm.startswith("plateau"):
            continue  # whether there is one is for the loss to say
        assert set(run.num_changes) == {event.label for event in events}


@pytest.mark.experiment
def test_pruned_arms_end_with_the_small_network_and_grown_ones_with_the_large(noise: None, tmp_path: Path) -> None:
    small, large = (measure(job_of(arm, FASHION)).num_parameters for arm in ("small", "large"))
    for arm in ("ends magnitude", "half ends magnitude", "middle random", "late longer magnitude"):
        assert measure(job_of(arm, FASHION)).num_parameters == pytest.approx(small, abs=2)
    final = measure(job_of("net2net 0.05", FASHION, seed=1))
    assert final.num_parameters == large and final.held_out_accuracy is None and final.test_accuracy is not None
    append_record(final, tmp_path / "results.jsonl")
    assert read_runs(tmp_path) == [final]


@pytest.mark.experiment
def test_decoupled_run_changes_its_structure_too(noise: None) -> None:
    for source in ("local", "synthetic"):
        job = job_of("ends taylor", FASHION)
        assert measure(replace(job, cell=job.cell._replace(source=source))).num_changes["prune units"] > 0


def test_flops_of_a_run_are_those_of_its_phases_and_equal_flops_are_equal(noise: None) -> None:
    site = Site(task=FASHION, steps=18)
    half, large = (sample_flops(arm, FASHION) for arm in ("half", "large"))
    total, last = spent(prepare(make_config("alpha 1", site, rate=1e-3, seed=0)))
    assert (total, last) == (8 * 9 * (half + large), large)
    for arm in ("half", "large", "alpha 1"):
        steps = equal_steps(arm, "large", FASHION)
        own = replace(site, steps=steps)
        total, _ = spent(prepare(make_config(arm, own, rate=1e-3, seed=0)))
        assert total == pytest.approx(8 * 18 * large, rel=0.04)  # whole steps


def test_small_dense_network_has_as_many_parameters_as_the_sparse_ones_keep() -> None:
    for task in sites.TASKS:
        site = Site(task=task, steps=18)
        full = ARMS["full"].network(site)
        pruned = 0.9 * sum(full.get_parameter(f"layer{i}.weight").numel() for i in (1, 2, 3))
        kept, narrow = num_parameters(full) - pruned, num_parameters(ARMS["narrow"].network(site))
        assert 0.85 * kept < narrow <= kept


def test_rates_and_finalists_are_chosen_on_held_out_samples_and_the_plan_is_whole(whole: list[Run]) -> None:
    assert set(rates(whole).values()) == {RATES[1]}
    assert finalists(whole, "prune", "samples")[:3] == ["small", "full", "ends taylor"]
    assert best_finalist(whole, "prune") == "ends taylor"
    assert {seed for by_seed in finals(whole).values() for seed in by_seed} == set(SEEDS)
    for family in FAMILIES.values():
        assert all(Cell(arm, task) in screened(whole) for arm in family.arms for task in family.tasks)
    assert len({(run.cell, run.rate, run.seed) for run in whole}) == len(whole)
    assert {site_of(job.cell).steps for job in full_jobs(whole)} == {9 * 351, 12 * 351}
    part = [run for run in whole if run.arm != "middle random"]
    assert finalists(part, "prune", "samples") == [] and finalists(part, "grow", "flops")


def test_rates_belong_to_arms_that_have_a_grid() -> None:
    for arm in ARMS.values():
        assert not arm.rate_of or not ARMS[arm.rate_of].rate_of
    for name, family in FAMILIES.items():
        assert family.baseline in family.controls, name
        assert all(set(family.tasks) <= set(tasks_of(ARMS[arm].rate_of or arm)) for arm in family.arms)


def test_tables_and_words_are_what_the_runs_say(whole: list[Run], tmp_path: Path) -> None:
    parts = table.render(whole)
    assert "**Prune.** In points over *small from the start*, the best first: at epoch ends" in parts["verdict"]
    assert "(*at every epoch end, by taylor*) +2.00 ± 0.00 (better)" in parts["verdict"]
    assert "not run" not in parts["prune samples"] + parts["grow flops"] + parts["decoupled"]
    assert "| 80.20 ± 0.10 | 80.20 ± 0.10 | 80.20 ± 0.10 |  | 1.00 |" in parts["prune samples"]
    draw(whole, "grow", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_tables_of_a_part_of_the_runs_say_what_is_missing(whole: list[Run]) -> None:
    for number in (0, 20, 66, 150):
        parts = table.render(whole[:number])
        assert "Not run." in parts["verdict"] and "not run" in parts["prune samples"]


def test_interval_is_students_about_the_mean_of_paired_differences() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found is not None and str(found) == "+2.00 ± 2.48" and found.word == "not told apart"
    assert interval([]) is None and str(interval([0.5])) == "+0.50 (1)"
