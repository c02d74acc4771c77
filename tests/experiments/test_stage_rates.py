"""Are arms tuned on held-out samples alone, what stages see compared with the truth, and the tables the results?"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dni import LossGradient, Signal
from experiments.stage_rates import config as rows
from experiments.stage_rates import table
from experiments.stage_rates.comparison import compare
from experiments.stage_rates.config import ARMS, SETTINGS, SOURCES, TASKS, Settings, Split
from experiments.stage_rates.picture import draw, rates
from experiments.stage_rates.results import Run, append_run, best_value, finalists, read_runs
from experiments.stage_rates.run import Job, early_jobs, final_jobs, longer_jobs, measure, tuning_jobs

SHORT = replace(SETTINGS, steps=2, batch_size=8, num_compared=16)
TASK, SOURCE = TASKS[0].title, "local losses"


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pictures instead of the data set."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 784, generator=drawn), torch.randint(10, (32,), generator=drawn)
    small = Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)
    for place in ("config", "run"):
        monkeypatch.setattr(f"experiments.stage_rates.{place}.split", lambda task, settings: small)


def run_of(arm: str, value: float, held_out: float | None = 0.8, seed: int = 0, settings: Settings = SETTINGS) -> Run:
    return Run(
        task=TASK,
        source=SOURCE,
        arm=arm,
        value=value,
        seed=seed,
        train_loss=None if held_out is None else 0.1,
        held_out_accuracy=held_out,
        test_accuracy=None if held_out is None else held_out - 0.1,
        cpu_s=2.0,
        num_summaries=4,
        num_unsolved=1,
        compared={"seen_gradient": [1.0, 2.0], "seen_hessian": [2.0, 2.0], "true_gradient": [0.5, 2.0]}
        | {"true_hessian": [[4.0, 0.0], [0.0, 2.0]]},
        settings=asdict(settings),
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )


@pytest.mark.experiment
def test_two_steps_of_an_arm_give_a_line_of_the_results(noise: None, tmp_path: Path) -> None:
    run = measure(Job(task=TASK, source=SOURCE, arm="curvature by tensor", value=0.01, seed=0, settings=SHORT))
    assert (run.num_summaries, run.num_unsolved, run.compared) == (4, 0, {})
    assert run.train_loss == pytest.approx(2.33, abs=0.05)
    append_run(run, tmp_path / "results.jsonl")
    assert read_runs(tmp_path / "results.jsonl") == [run]
    assert len(measure(Job(task=TASK, source=SOURCE, arm="SGD", value=0.01, seed=0, settings=SHORT)).compared) == 4


def test_last_stage_sees_the_true_loss() -> None:
    torch.manual_seed(0)
    stages, loss = rows.mlp(), LossGradient(nn.CrossEntropyLoss())
    x, y = torch.randn(8, 784), torch.randint(10, (8,))
    source = SOURCES[SOURCE]["source"]
    h = stages[0](x).detach()
    source.build(h, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(source.regression.networks[0].labels.head.weight, std=0.1)
    loss.estimate(nn.Sequential(*stages)(x).detach(), Signal(step=0, target=y))
    found = compare(stages, [source, source, source, loss], nn.CrossEntropyLoss(), x, y)
    assert found["seen_gradient"][3] == pytest.approx(found["true_gradient"][3], rel=1e-4)
    assert found["seen_hessian"][3] == pytest.approx(found["true_hessian"][3][3], rel=1e-4)
    assert found["seen_hessian"][0] != pytest.approx(found["true_hessian"][0][0], rel=1e-2)


def test_values_are_chosen_on_held_out_samples_of_the_first_seed_and_then_run_with_all() -> None:
    assert len({len(arm.tried) for arm in ARMS}) == 1, "grids of the same size"
    assert len(tuning_jobs(TASK)) == len(SOURCES) * sum(len(arm.tried) for arm in ARMS)
    runs = [run_of("SGD", 0.1, None), run_of("SGD", 0.03, 0.9), run_of("SGD", 0.01, 0.9), run_of("Adam", 0.01)]
    runs += [run_of("SGD", 0.1, 0.99, seed=1), run_of("SGD", 0.003, 0.99, settings=SHORT)]
    assert best_value(runs, (TASK, SOURCE, "SGD")) == 0.01
    assert [(job.arm, job.value, job.seed) for job in final_jobs(TASK, runs)] == [
        (arm, 0.01, seed) for arm in ("SGD", "Adam") for seed in rows.SEEDS
    ]
    assert {(job.arm, job.settings.steps) for job in early_jobs(TASK, runs)} == {("SGD", SETTINGS.early)}
    assert {job.settings.steps for job in longer_jobs(TASK, [*runs, run_of("curvature by stage", 0.1)])} == {425}
    assert [job.arm for job in longer_jobs(TASK, [*runs, run_of("curvature by stage", 0.1)])] == ["SGD"] * 3 + [
        "Adam"
    ] * 3
    assert [run.held_out_accuracy for run in finalists(runs, (TASK, SOURCE, "SGD"))] == [0.9]


def test_tables_show_spreads_what_was_taken_what_diverged_and_what_was_not_run() -> None:
    runs = [run_of("SGD", 0.01, 0.8 + seed / 100, seed) for seed in rows.SEEDS] + [run_of("SGD", 0.1, None)]
    runs += [run_of("Adam", 0.01, None, seed) for seed in rows.SEEDS]
    parts = table.render(runs)
    row = f"| {TASK}; {SOURCE} |"
    assert f"{row} 71.00 ± 1.00 | diverged | not run | not run |" in parts["accuracy"]
    assert f"{row} SGD | **0.01: 80.00**, 0.1: diverged |" in parts["tries"]
    assert f"{row} {SETTINGS.steps} | 0 | 0.5 (0.5 to 0.5) | 0.5 (0.5 to 0.5) | 4 (4 to 4) |" in parts["compared"]
    assert f"{row} {SETTINGS.early} | | not run" in parts["compared"]


def test_picture_sets_rates_beside_each_other_and_marks_where_there_is_none(tmp_path: Path) -> None:
    run = run_of("SGD", 0.01)
    assert rates(run.compared, 0) == (0.125, 0.5)
    uphill, none = 2e-3, 5e2
    assert rates(run.compared | {"true_gradient": [-0.5, 2.0], "seen_hessian": [-2.0, 2.0]}, 0) == (uphill, none)
    draw([run_of("SGD", 0.01, seed=seed) for seed in rows.SEEDS], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
