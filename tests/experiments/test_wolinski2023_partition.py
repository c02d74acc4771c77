"""Does every arm take the steps it says, does a trace leave training alone, and do the tables say what the runs say?"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import nn

from dni import Summary, cubic_rates
from experiments.records import append_record
from experiments.wolinski2023_partition import table, tables, tracing, training
from experiments.wolinski2023_partition.bounded import bounded_rates
from experiments.wolinski2023_partition.config import ADAM, ARMS, FULL, SGD, TASKS, Setting, Split, Task, rule_of, split
from experiments.wolinski2023_partition.networks import begun, lenet, mlp, vgg11
from experiments.wolinski2023_partition.picture import draw_coupling, draw_courses, draw_eta
from experiments.wolinski2023_partition.results import Point, Run, Trace, best_setting, counted, read_runs, read_traces
from experiments.wolinski2023_partition.run import seed_jobs, timed_jobs, trace_jobs, try_jobs
from experiments.wolinski2023_partition.tracing import RULES, TraceJob, coupling_of, trace
from experiments.wolinski2023_partition.training import Job, train

MLP = TASKS[0]
MACHINE = {"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Task:
    """A network of 3 layers on random samples."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 12, generator=drawn), torch.randint(10, (64,), generator=drawn)
    samples = Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)
    task = replace(
        MLP,
        name="small",
        network=lambda: mlp((12, 6, 5, 10), nn.Tanh),
        steps=3,
        seeds=(0, 1),
        summary_size=16,
        trace_every=2,
        batch_size=8,
        period=2,
        steps_per_point=2,
        samples_at_once=8,
    )
    for module in (training, tracing):
        monkeypatch.setattr(module, "split", lambda task: samples)
        monkeypatch.setattr(module, "task_named", lambda name: task)
    return task


def run_of(arm: str, setting: Setting, *, held_out: float = 0.8, seed: int = 0, **more: object) -> Run:
    points = [
        Point(step=step, cpu_s=cpu_s, train_loss=1.0, held_out_loss=1.0, held_out_accuracy=seen, test_accuracy=seen)
        for step, cpu_s, seen in ((0, 0.0, 0.1), (MLP.steps, 10.0, held_out))
    ]
    curved = ARMS[arm].partition is not None
    run = Run(
        task=MLP.name,
        arm=arm,
        rate=setting.rate,
        strength=setting.strength,
        seed=seed,
        limit_s=None,
        diverged=False,
        num_steps=MLP.steps,
        cpu_s=10.0,
        summary_s=5.0 if curved else 0.0,
        wall_s=12.0,
        points=points,
        num_summaries=4 if curved else 0,
        num_unsolved=1 if curved else 0,
        negative={"0.bias": 3} if curved else {},
        stopped={"0.bias": 2} if curved else {},
        found=[None, *[{"0.weight": 1.0, "0.bias": -1.0}] * 3] if curved else [],
        machine=MACHINE,
    )
    return replace(run, **more)  # type: ignore[arg-type]


def all_tried() -> list[Run]:
    """The second setting of every arm is the best."""
    return [
        run_of(arm, setting, held_out=0.9 if index == 1 else 0.8)
        for arm, settings in MLP.tries.items()
        for index, setting in enumerate(settings)
    ]


@pytest.mark.experiment
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_is_timed_and_says_what_it_found(small: Task, arm: str, tmp_path: Path) -> None:
    run = train(Job(task="small", arm=arm, setting=small.tries[arm][0], seed=0))
    assert (run.num_steps, [point.step for point in run.points], run.diverged) == (3, [0, 2, 3], False)
    assert run.points[-1].train_loss != run.points[0].train_loss and run.cpu_s > run.summary_s
    of_curvature = ARMS[arm].partition is not None
    assert len(run.found) == run.num_summaries == (2 if of_curvature else 0) and (run.summary_s > 0) == of_curvature
    append_record(run, tmp_path / "results.jsonl")
    assert read_runs(tmp_path / "results.jsonl") == [run]


@pytest.mark.experiment
def test_run_that_diverges_is_recorded_and_one_with_a_limit_ends_by_the_clock(small: Task) -> None:
    run = train(Job(task="small", arm=SGD, setting=Setting(rate=1e30), seed=0))
    assert run.diverged and run.num_steps < 3
    run = train(Job(task="small", arm=SGD, setting=Setting(rate=0.1), seed=0, limit_s=0.02))
    assert run.cpu_s >= 0.02 and run.points[-1].step == run.num_steps


@pytest.mark.experiment
def test_trace_leaves_training_as_it_is_and_sees_both_directions(
    small: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[nn.Module] = []

    def made(module: nn.Sequential, *, gain: float, seed: int) -> nn.Sequential:
        seen.append(begun(module, gain=gain, seed=seed))
        return module

    monkeypatch.setattr(tracing, "begun", made)
    job = TraceJob(task="small", arm=SGD, setting=Setting(rate=0.1))
    gradient, optimiser = trace(job)
    monkeypatch.setattr(tracing, "task_named", lambda name: replace(small, trace_every=100))
    trace(job)
    assert all(torch.equal(one, other) for one, other in zip(*(each.parameters() for each in seen), strict=True))
    assert [look.step for look in gradient.looks] == [0, 2] and gradient.looks[0].rates.keys() == RULES.keys()
    # Momentum is empty at first, so the step over its rate is the gradient.
    newton, same = (each.looks[0].rates["one"] for each in (gradient, optimiser))
    assert newton is not None and same == pytest.approx(newton, rel=1e-2)
    for each in (gradient, optimiser):
        append_record(each, tmp_path / "traces.jsonl")
    assert read_traces(tmp_path / "traces.jsonl") == [gradient, optimiser]


def test_a_diagonal_rule_does_not_see_interactions_and_the_others_do() -> None:
    hessian = torch.tensor([[2.0, 1.5], [1.5, 3.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    whole = Summary(names=("a", "b"), gradient=one, hessian=hessian, third=one)
    alone = replace(whole, hessian=torch.diag(hessian.diagonal()))
    for arm, (setting, *_) in MLP.tries.items():
        if ARMS[arm].partition is not None:
            rule = rule_of(ARMS[arm], setting)
            assert torch.equal(rule(whole), rule(alone)) == ARMS[arm].alone, arm


@pytest.mark.parametrize("seed", range(4))
def test_rates_from_zero_on_are_the_best_of_all_that_solve_for_some_subsets(seed: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    half, g, third = (torch.randn(shape, generator=drawn, dtype=torch.float64) for shape in ((5, 5), (5,), (5,)))
    summary = Summary(names=tuple("abcde"), gradient=g, hessian=half @ half.T, third=third)

    def value(eta: torch.Tensor) -> float:
        length = torch.linalg.vector_norm(third.abs().pow(1 / 3) * eta)
        return float(-g @ eta + eta @ summary.hessian @ eta / 2 + 2.0 / 6 * length**3)

    found = bounded_rates(summary, strength=2.0)
    tried = [torch.zeros(5, dtype=torch.float64)]
    for size in range(1, 6):
        for some in combinations(range(5), size):
            eta = torch.zeros(5, dtype=torch.float64)
            eta[list(some)] = cubic_rates(summary.of(some), strength=2.0)
            tried += [eta] if float(eta.min()) >= 0 else []
    assert float(found.min()) >= 0 and value(found) == pytest.approx(min(map(value, tried)), rel=1e-9, abs=1e-12)


def test_interactions_are_relative_to_both_curvatures_and_counted_by_distance() -> None:
    hessian = torch.tensor([[4.0, -1.0, 0.0], [-1.0, 1.0, 2.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    assert coupling_of(hessian).tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 0]]
    names = ["0.weight", "0.bias", "2.weight", "4.weight"]
    interactions = [[1.0, 0.9, 0.5, 0.1], [0.9, 1.0, 0.5, 0.1], [0.5, 0.5, 1.0, 0.3], [0.1, 0.1, 0.3, 1.0]]
    found = tables.shares_by_distance(trace_of(names, interactions))
    assert [sorted(set(values)) for values in found] == [[0.9], [0.3, 0.5], [0.1]]


def trace_of(
    names: list[str], interactions: list[list[float]], *, arm: str = SGD, direction: str = "optimiser"
) -> Trace:
    rates: dict[str, list[float] | None] = {rule: [0.1 * (1 + index) for index in range(len(names))] for rule in RULES}
    look = tracing.Look(
        step=0,
        rates=rates | {"newton": None},
        changes=dict.fromkeys(RULES, -0.1) | {"newton": None},
        changes_as_found=dict.fromkeys(tracing.SIGNED, -0.1) | {"newton": None},
        coupling=0.5,
        num_negative_curvatures=1,
    )
    return Trace(
        task=MLP.name,
        arm=arm,
        rate=MLP.tries[arm][1].rate,
        direction=direction,
        names=names,
        looks=[look, replace(look, step=10)],
        interactions=interactions,
        summary_s=0.1,
        step_s=0.01,
        machine=MACHINE,
    )


def test_networks_are_those_of_the_paper_and_begin_with_unit_gain() -> None:
    with torch.device("meta"):  # no numbers are drawn
        sizes = [len(list(task.network().parameters())) for task in TASKS]
    assert sizes == [8, 10, 42, 18, 18, 42]
    module = begun(lenet(), gain=2.0, seed=0)
    weight = module[7].weight.detach()
    assert float(weight.std()) == pytest.approx(2 / 400**0.5, rel=0.02) and not bool(module[7].bias.any())
    assert lenet()(torch.zeros(2, 3, 32, 32)).shape == vgg11(divisor=16)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_what_learns_what_chooses_and_what_tests_are_different_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    data = split(replace(MLP, num_samples=30, num_held_out=20))
    assert (len(data.train_x), len(data.held_out_x), len(data.test_x)) == (30, 20, 10_000)
    assert not any(torch.equal(one, other) for one in data.train_x for other in data.held_out_x)


def test_best_on_held_out_samples_is_run_with_the_other_seeds_and_as_long_as_the_method_took() -> None:
    runs = all_tried()
    assert len(try_jobs(runs, MLP)) == len(runs) and len({len(settings) for settings in MLP.tries.values()}) == 1
    assert best_setting(runs, MLP, FULL) == MLP.tries[FULL][1] and best_setting(runs[1:], MLP, FULL) is None
    jobs = seed_jobs(runs, MLP)
    assert {job.seed for job in jobs} == {1, 2} and not {ADAM, SGD} & {job.arm for job in jobs}
    assert {job.limit_s for job in timed_jobs(runs, MLP)} == {10.0} and len(timed_jobs(runs, MLP)) == 6
    assert timed_jobs([], MLP) == [] and [job.arm for job in trace_jobs(runs, MLP)] == [SGD] * 3 + [ADAM] * 3
    longer = run_of(SGD, MLP.tries[SGD][1], seed=1, limit_s=10.0)
    assert counted([*runs, longer], MLP, SGD) == [runs[-2], longer] and counted(
        [*runs, longer], MLP, SGD, timed=True
    ) == [longer]


def test_tables_and_pictures_say_what_was_measured_and_what_was_not_run(tmp_path: Path) -> None:
    runs = all_tried()
    runs += [run_of(FULL, MLP.tries[FULL][1], seed=seed, held_out=0.9 + seed / 100) for seed in (1, 2)]
    runs += [run_of(SGD, MLP.tries[SGD][1], seed=seed, limit_s=10.0, held_out=0.9) for seed in (0, 1, 2)]
    runs[0] = replace(runs[0], diverged=True)
    traces = [
        trace_of(["0.weight", "0.bias"], [[1.0, 0.4], [0.4, 1.0]], arm=arm, direction=direction)
        for arm in (SGD, ADAM)
        for direction in tracing.DIRECTIONS
    ]
    parts = table.render(runs, traces)
    assert "| MLP, MNIST | full H, per tensor, cubic | (1, 0.1): diverged; **(1, 0.3): 90.00**;" in parts["tries"]
    row = "| MLP, MNIST, 360 steps | full H, per tensor, cubic | 1.000 ± 0.000 | 91.00 ± 1.00 | 91.00 ± 1.00 |"
    assert row in parts["equal steps"] and "| LeNet, CIFAR-10, 360 steps | Adam | not run" in parts["equal steps"]
    assert "| MLP, MNIST | SGD, momentum 0.9 | 10.0 ± 0.0 | 360 ± 0 |" in parts["equal time"]
    assert "| MLP, MNIST | S = 1 (Cauchy) | 4 | 25.0 | 50.0 | 25.0 | 0.bias: 100 % |" in parts["rates"]
    assert "| MLP, MNIST | SGD | gradient | no rates | no rates | -0.100 (0 %) |" in parts["steps ahead"]
    assert "| MLP, MNIST | SGD | optimiser | 0.400 | 0.400 |  |  | 1.0 of 2 |" in parts["coupling"]
    assert "| 0.1 | 0.1 | 0.1 (0.weight) | 0.2 (0.bias) | 2 | 0 | 0 |" in parts["eta"]
    found = table.measured(runs, traces)
    assert found["mlp_full_over_sgd_in_its_time"] == pytest.approx([0, 1, 2]) and found["mlp_coupling"] == [0.4]
    for name, draw in (("a", draw_eta), ("b", draw_coupling)):
        draw(traces, tmp_path / f"{name}.png")
    draw_courses(runs, tmp_path / "c.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in "abc")
