"""Are updates counted as they are made, is all chosen on held-out samples, and do the tables say what the runs say?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import mean

import pytest
import torch

from dni import Shapes
from experiments.cadence_study import config as settings
from experiments.cadence_study import table
from experiments.cadence_study.arms import (
    ARMS,
    CONTROLS,
    LONGEST,
    UNIFORM,
    block_sizes,
    foreseen_updates,
    steps_for_updates,
)
from experiments.cadence_study.config import (
    NETS,
    RATES,
    SCREENING_SEED,
    SEEDS,
    TASKS,
    Split,
    Task,
    make_config,
    rules_of,
    shapes_of,
)
from experiments.cadence_study.differences import differences, interval, like_uniform, over_tasks
from experiments.cadence_study.picture import draw
from experiments.cadence_study.plan import ROUNDS, Job, num_planned, round_of, steps_of
from experiments.cadence_study.results import (
    BlockUpdates,
    Cell,
    Run,
    Setting,
    choices,
    finalists,
    finals,
    read_runs,
    screened,
)
from experiments.cadence_study.run import at_the_edge, measure
from experiments.records import append_record
from pipeline import prepare

SHAPES: Shapes = {"0.a.weight": (8, 8), "0.a.bias": (8,), "0.b.weight": (4, 8), "0.b.bias": (4,)}
"""72 and 36 parameters."""


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few random pictures instead of the data sets, in small microbatches."""

    def small(data: str, size: str = "small") -> Split:
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(32, *((3, 32, 32) if data == "cifar" else (1, 28, 28)), generator=drawn)
        y = torch.randint(10, (32,), generator=drawn)
        return Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)

    monkeypatch.setattr(settings, "split", small)
    monkeypatch.setattr("experiments.cadence_study.run.split", small)
    monkeypatch.setattr(settings, "BATCH_SIZE", 8)


@pytest.fixture(scope="module")
def whole() -> list[Run]:
    """All runs of the plan, made up round after round; kept by all tests."""
    runs: list[Run] = []
    for jobs in ROUNDS.values():
        runs += [made_up(job) for job in jobs(runs)]
    return runs


def made_up(job: Job) -> Run:
    """By confidence is half a point above the uniform arms of every 1 and 2; everything else is far below."""
    points = {UNIFORM: 80.0, "every_2": 80.0, "every_4": 75.0, "by_confidence": 80.5, "quadrants": 79.0}
    middle = RATES[job.optimizer][1]
    found = points.get(job.arm, 70.0) + (job.optimizer == "Adam") + 0.01 * job.seed
    found -= (
        (job.rate != middle) + 0.1 * (job.rule != "none") + (0.02 * job.seed if job.arm == "by_confidence" else 0.0)
    )
    return run_of(job, found)


def run_of(job: Job, percent: float | None) -> Run:
    """Of a job, with what is measured made up; None: it diverged."""
    final, fraction = job.seed != SCREENING_SEED, None if percent is None else percent / 100
    updates = max(1, round(foreseen_updates(job.arm, shapes_of(job.task), job.steps) or job.steps / 2))
    block = BlockUpdates(parameters=10, updates=updates, length=job.steps / updates, noise_scale=99.0)
    return Run(
        size=job.size,
        comparison=job.comparison,
        net=job.task.net,
        data=job.task.data,
        optimizer=job.optimizer,
        arm=job.arm,
        rule=job.rule,
        rate=job.rate,
        seed=job.seed,
        steps=job.steps,
        diverged=percent is None,
        held_out_accuracy=None if final else fraction,
        test_accuracy=fraction if final else None,
        train_loss=None if percent is None else 0.1,
        blocks={} if percent is None else {f"layer{i}": block for i in range(4)},
        wall_s=6.0,
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )


def job_of(arm: str, **more: object) -> Job:
    given = {"task": Task("mlp", "fashion"), "optimizer": "SGD", "rule": "none", "rate": 0.03, "seed": 0, "steps": 8}
    return Job(comparison="samples", arm=arm, **(given | more))  # type: ignore[arg-type]


@pytest.mark.experiment
def test_every_arm_learns_with_every_network_and_optimiser_and_its_updates_are_as_foreseen(noise: None) -> None:
    for arm, net, optimizer in product(ARMS, NETS, RATES):
        task = Task(net, "cifar" if arm == "quadrants" else "mnist")
        run = measure(job_of(arm, task=task, optimizer=optimizer, rule=rules_of(arm, optimizer)[-1], rate=1e-3))
        sizes = {name: math.prod(shape) for name, shape in shapes_of(task).items()}
        assert sum(block.parameters for block in run.blocks.values()) == sum(sizes.values())
        foreseen = foreseen_updates(arm, shapes_of(task), run.steps)
        if arm != "output_fastest_linear":  # which has something left to apply after 8 steps
            assert run.updates_per_parameter == pytest.approx(foreseen or run.updates_per_parameter)
        assert all(1 <= block.length <= LONGEST for block in run.blocks.values())
        assert run.held_out_accuracy is not None and run.test_accuracy is None and run.train_loss is not None


@pytest.mark.experiment
def test_final_sees_test_samples_only_and_a_run_that_diverges_is_recorded_as_such(noise: None, tmp_path: Path) -> None:
    final = measure(job_of("late", seed=3))
    assert final.held_out_accuracy is None and final.test_accuracy is not None
    lost = measure(job_of(UNIFORM, rate=1e30))
    assert lost.diverged and (lost.held_out_accuracy, lost.train_loss, lost.updates_per_parameter) == (None, None, 0)
    for run in (final, lost):
        append_record(run, tmp_path / "results.jsonl")
    assert read_runs(tmp_path) == [final, lost]


def test_updates_are_counted_by_the_parameters_that_are_updated() -> None:
    assert [foreseen_updates(arm, SHAPES, 8) for arm in CONTROLS] == [8, 4, 2]
    assert foreseen_updates("output_fastest", SHAPES, 8) == pytest.approx((72 * 1 + 36 * 8) / 108)
    assert foreseen_updates("input_fastest", SHAPES, 8) == pytest.approx((72 * 8 + 36 * 1) / 108)
    assert foreseen_updates("late", SHAPES, 16) == pytest.approx((72 * (8 + 1) + 36 * 16) / 108)
    quarters = (16 + 8) * (8 + 4 + 2 + 1) + (8 + 4) * 8
    assert foreseen_updates("quadrants", SHAPES, 8) == pytest.approx(quarters / 108)
    assert sum(block_sizes("quadrants", SHAPES, 8).values()) == 108
    assert (
        foreseen_updates("by_confidence", SHAPES, 8) is None and steps_for_updates("by_confidence", SHAPES, 8) is None
    )


def test_where_updates_are_equal_an_arm_gets_the_fewest_steps_that_suffice() -> None:
    assert [steps_for_updates(arm, SHAPES, 10) for arm in CONTROLS] == [10, 20, 40]
    for arm in ("output_fastest", "input_fastest", "late", "quadrants"):
        steps = steps_for_updates(arm, SHAPES, 10)
        assert steps is not None
        assert (foreseen_updates(arm, SHAPES, steps) or 0) >= 10 > (foreseen_updates(arm, SHAPES, steps - 1) or 0)


def test_arm_by_confidence_gets_the_steps_that_its_own_updates_came_to() -> None:
    cell = Cell("updates", Task("mlp", "mnist"), "SGD", "by_confidence")
    assert steps_of(cell, {}) is None
    run = run_of(job_of("by_confidence", task=cell.task, steps=900), 80.0)
    assert run.updates_per_parameter == 450
    assert steps_of(cell, {cell._replace(comparison="samples"): run}) == 2 * 234


def test_rule_is_chosen_on_one_data_set_and_rates_on_each_with_it_by_held_out_accuracy_alone() -> None:
    mnist = Task("mlp", "mnist")
    runs = [
        run_of(job_of("late", rule="none", rate=0.01), 70.0),
        run_of(job_of("late", rule="linear", rate=0.01), 80.0),
        run_of(job_of("late", rule="linear", rate=0.03), 80.0),
        run_of(job_of("late", rule="linear", rate=0.1), None),
        run_of(job_of("late", rule="none", rate=0.1, seed=1), 99.0),
        run_of(job_of("late", rule="none", rate=0.1, task=mnist), 95.0),
        run_of(job_of("late", rule="linear", rate=0.1, task=mnist), 90.0),
    ]
    found = choices(runs)
    assert found[Cell("samples", Task("mlp", "fashion"), "SGD", "late")] == Setting("linear", 0.01)
    assert found[Cell("samples", mnist, "SGD", "late")] == Setting("linear", 0.1)
    assert screened(runs) == {} and finals(runs) == {}
    assert at_the_edge(runs) == []  # not before all of the grid was tried
    runs += [run_of(job_of(UNIFORM, rate=rate), 80.0 - rate) for rate in RATES["SGD"]]
    assert at_the_edge(runs) == ["samples, MLP, Fashion-MNIST, SGD, uniform: the best rate is 0.01, at the edge"]


def test_interval_is_students_about_the_mean_of_paired_differences() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None and found.mean == 3
    assert found.half_width == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5)) and str(found) == "+3.00 ± 1.96"
    assert [
        each and each.word for each in (found, interval([-1.0, 1.0]), interval([-2.0, -2.1, -1.9, -2.0, -2.0]))
    ] == [
        "better",
        "not told apart",
        "worse",
    ]
    assert interval([]) is None and str(interval([0.5])) == "+0.50 (1)"
    ours, theirs = (Cell("samples", Task("mlp", "mnist"), "SGD", arm) for arm in ("late", UNIFORM))
    own = {
        ours: {seed: run_of(job_of("late", seed=seed), 80.0 + seed) for seed in (1, 2, 3)},
        theirs: {seed: run_of(job_of(UNIFORM, seed=seed), 80.0) for seed in (2, 3, 4)},
    }
    assert differences(own, ours, theirs) == pytest.approx({2: 2.0, 3: 3.0})
    assert over_tasks([{1: 1.0, 2: 3.0}, {2: 5.0, 3: 7.0}]) == [4.0]


def test_arm_is_compared_with_the_uniform_one_that_updates_about_as_often() -> None:
    cell = Cell("samples", Task("mlp", "mnist"), "SGD", "quadrants")
    for arm, nearest in (("late", "every_2"), ("output_fastest", "every_4"), ("input_fastest", UNIFORM)):
        own = {cell: {1: run_of(job_of(arm, seed=1, steps=936), 80.0)}}
        assert like_uniform(own, cell).arm == nearest


def test_plan_has_the_runs_it_says_each_once_and_builds_round_upon_round(whole: list[Run]) -> None:
    keys = {(run.cell, run.setting, run.seed) for run in whole}
    assert len(keys) == len(whole) == sum(num_planned()[name] for name in ROUNDS)
    assert {name: sum(round_of(run) == name for run in whole) for name in ROUNDS} == {
        name: num_planned()[name] for name in ROUNDS
    }
    assert finalists(whole, "samples", "Adam") == [*CONTROLS, "by_confidence", "quadrants"]
    assert finalists(whole[:-1], "updates", "SGD") == finalists(whole, "updates", "SGD")
    assert finalists([run for run in whole if run.seed or run.arm != "late"], "samples", "SGD") == []
    assert {run.seed for run in whole} == {SCREENING_SEED, *SEEDS}


def test_tables_and_words_are_what_the_runs_say(whole: list[Run], tmp_path: Path) -> None:
    parts = table.render(whole)
    mean_loss = mean(0.02 * seed for seed in SEEDS)
    assert f"| by confidence | MLP 2.00, CNN 2.00 | {0.5 - mean_loss:+.2f} ± 0.04 |" in parts["samples SGD"]
    assert "not run" not in parts["samples SGD"] + parts["updates Adam"] + parts["screening samples"]
    assert "**Equal samples, SGD.** Best is *by confidence*, +0.44 ± 0.04 points (better)" in parts["verdict"]
    assert (
        "add anything to Adam, at equal samples?** Yes, more than larger batches do: *by confidence*"
        in parts["verdict"]
    )
    assert "Adam over SGD, both at every step: +1.00 ± 0.00 points (better)" in parts["verdict"]
    assert "| SGD, MLP, MNIST | 2.00 | 2.00 | 2.00 | 2.00 | 99; 99; 99; 99 |" in parts["confidence"]
    draw(whole, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_tables_of_a_part_of_the_runs_say_what_is_missing(whole: list[Run]) -> None:
    for part in parts_of(whole):
        parts = table.render(part)
        assert "Not run." in parts["verdict"] and "not run" in parts["updates Adam"]
    few = [run for run in whole if run.seed < 4 and run.comparison == "samples"]
    assert " ± 0.05 (3) |" in table.render(few)["samples Adam"]


def parts_of(runs: list[Run]) -> Iterator[list[Run]]:
    """None, a part of the first round, all of it, and all screening of equal samples."""
    wanted: list[Callable[[Run], bool]] = [
        lambda run: False,
        lambda run: round_of(run) == next(iter(ROUNDS)) and run.arm in CONTROLS,
        lambda run: round_of(run) == next(iter(ROUNDS)),
        lambda run: run.comparison == "samples" and run.seed == SCREENING_SEED,
    ]
    for each in wanted:
        yield [run for run in runs if each(run)]


def test_arms_of_a_seed_begin_with_the_same_weights_and_see_the_same_samples(noise: None) -> None:
    for task in (Task("mlp", "cifar"), Task("cnn", "mnist")):
        prepared = [
            prepare(make_config(arm, task, optimizer="SGD", rule="none", rate=0.1, seed=seed, steps=8))
            for arm, seed in ((UNIFORM, 1), ("quadrants", 1), (UNIFORM, 2))
        ]
        weights = [each.cut.stages[0].state_dict()["0.layer1.weight"] for each in prepared]
        first = [each.train.peek()[0] for each in prepared if each.train is not None]
        for one, same, other in (weights, first):
            assert torch.equal(one, same) and not torch.equal(one, other)


def test_all_networks_have_four_layers() -> None:
    for task in TASKS:
        weights = [name for name in shapes_of(task) if name.endswith("weight")]
        assert weights == [f"0.layer{i}.weight" for i in range(1, 5)]
