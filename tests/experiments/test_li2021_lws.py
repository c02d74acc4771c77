"""Does what the rule says learn, is time counted rightly, and do the tables say no more than the results?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.expected import read_expected
from experiments.li2021_lws import config as settings
from experiments.li2021_lws import run as runner
from experiments.li2021_lws import speed, stages, table, time_tables
from experiments.li2021_lws.by_hand import by_hand
from experiments.li2021_lws.config import (
    EVERYTHING,
    FULL_NETS,
    GRID,
    INVERSE,
    NETS,
    RATES,
    SEEDS,
    SHORTENED,
    STATIC,
    TASKS,
    TUNED,
    Rule,
    Split,
    Task,
    make_config,
    make_linear,
    make_vgg,
    top_of,
    units,
)
from experiments.li2021_lws.cost_model import backward_speed_up, step_speed_up
from experiments.li2021_lws.picture import draw
from experiments.li2021_lws.results import (
    FOLDER,
    Run,
    at_equal_time,
    best_rates,
    counted,
    finalists,
    shortened,
    speed_up,
)
from experiments.li2021_lws.run import ROUNDS, Job, Options, measure
from experiments.li2021_lws.spent import Step, full_steps, seed_with_share
from pipeline import Config, prepare, run_simulated

TASK: Task = ("mlp 64", "fashion")
WHERE = {"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"}


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pictures instead of the data sets."""

    def small(data: str, layout: str) -> Split:
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(100, *((784,) if layout == "flat" else (1, 28, 28)), generator=drawn)
        y = torch.randint(10, (100,), generator=drawn)
        return Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)

    monkeypatch.setattr(settings, "split", small)
    monkeypatch.setattr(runner, "split", small)


@pytest.mark.parametrize(
    ("probability", "ratio", "speed_up"),
    [(0.05, 0.02, 14.5), (0.1, 0.1, 5.3), (0.2, 0.2, 2.8), (0.3, 0.4, 1.7), (1.0, 0.1, 1.0), (0.0, 0.25, 4.0)],
)
def test_backward_is_faster_by_what_is_computed_by_hand(probability: float, ratio: float, speed_up: float) -> None:
    assert backward_speed_up(probability, ratio) == pytest.approx(speed_up, abs=0.05)


def test_step_is_faster_by_what_is_computed_by_hand() -> None:
    assert step_speed_up(0.75, 3.0) == pytest.approx(2.0)  # 1/4 stays, 3/4 become 1/4
    assert step_speed_up(0.5, 1e9) == pytest.approx(2.0)


def test_tops_are_counted_in_layers_of_weights_with_their_batch_norm() -> None:
    linear, images = make_linear((8, 8, 8, 8, 8, 4), (6,)), make_vgg((2, 2, 2, 2, 2), (1, 8, 8))
    assert units(linear) == [("0",), ("2",), ("4",), ("6",), ("8",), ("10",)]
    assert top_of(Rule("third", 0.1), linear) == ("8", "10")
    assert top_of(Rule("ends", 0.0), images) == ("0", "1", "19")
    assert top_of(Rule("half", 0.1), images) == ("11", "12", "14", "15", "19")
    assert top_of(Rule("bottom", 0.0), images) == ("0", "1", "4", "5", "7", "8")
    with pytest.raises(ValueError, match="got 'nonsense'"):
        top_of(Rule("nonsense", 0.1), linear)


@pytest.mark.parametrize("rule", [Rule("half", 0.3), Rule("head", 0.5, "inverse"), Rule("ends", 0.0), EVERYTHING])
def test_steps_at_which_everything_learns_are_those_of_the_framework(noise: None, rule: Rule) -> None:
    prepared = prepare(make_config(TASK, rule, rate=0.1, seed=3, steps=20))
    (network,) = prepared.cut.stages
    assert isinstance(network, nn.Sequential)
    full = full_steps(prepared.config.participation, network, steps=20, seed=3)
    participants = prepared.participants(0)
    expected = [participants is None or len(participants.own(step)) == 6 for step in range(20)]
    assert full == expected and (any(full) or not rule.probability)


def test_turn_that_is_timed_has_exactly_the_share_that_its_rule_says() -> None:
    network = make_linear((4, 4, 4, 4, 4, 4), (4,))
    for rule in GRID:
        seed = seed_with_share(rule, network, first=3, steps=20)
        full = full_steps(settings.participation(rule, network), network, steps=23, seed=seed)
        assert sum(full[3:]) == round(20 * rule.probability)


@pytest.mark.experiment
@pytest.mark.parametrize(
    ("net", "rule"), [("mlp 64", Rule("head", 0.5)), ("cnn", Rule("third", 0.5, batch_norm="hold"))]
)
def test_run_is_measured(noise: None, net: str, rule: Rule) -> None:
    run = measure(Job(task=(net, "fashion"), rule=rule, rate=0.1, steps=8))
    assert run.rule == rule and run.test_accuracy is not None and run.steps == 8 and 0 < run.num_full < 8
    assert run.full_backward_ms is not None and run.other_backward_ms is not None and speed_up(run) is not None


@pytest.mark.experiment
def test_run_that_diverges_is_recorded_as_such(noise: None) -> None:
    run = measure(Job(task=TASK, rule=EVERYTHING, rate=1e30, steps=8))
    assert (run.test_accuracy, run.full_backward_ms, speed_up(run)) == (None, None, None)


def run_of(task: Task = TASK, rule: Rule = EVERYTHING, *, held_out: float | None = 0.8, **more: object) -> Run:
    """Of 100 steps, with a backward of 4 ms where everything learns and 1 ms elsewhere."""
    fields: dict[str, object] = {
        "rate": RATES[0],
        "seed": SEEDS[0],
        "part": 1,
        "steps": 100,
        "num_full": round(100 * rule.probability),
        "held_out_accuracy": held_out,
        "test_accuracy": None if held_out is None else held_out - 0.1,
        "forward_ms": 2.0,
        "full_backward_ms": 4.0 if rule.probability else None,
        "other_backward_ms": 1.0 if rule.probability < 1 else None,
        "update_ms": 0.5,
        "wall_s": 1.0,
        "machine": WHERE,
    }
    return Run(net=task[0], data=task[1], **{**rule._asdict(), **fields, **more})  # type: ignore[arg-type]


def screened(held_out: Callable[[Rule], float], task: Task = TASK) -> list[Run]:
    return [run_of(task, rule, held_out=held_out(rule)) for rule in (EVERYTHING, *GRID, *INVERSE)]


def test_speed_up_is_that_of_the_time_spent() -> None:
    full = run_of()
    assert speed_up(full) == 1.0
    assert speed_up(run_of(rule=Rule("head", 0.2))) == pytest.approx(100 / (20 + 80 / 4))
    assert speed_up(run_of(rule=STATIC[0])) is None
    assert speed_up(run_of(rule=STATIC[0]), full) == pytest.approx(4.0)


def test_full_sgd_in_the_same_time_is_read_off_between_two_lengths() -> None:
    lengths = [run_of(part=part, held_out=1.0 - 0.1 * part) for part in (1, 2, 4)]
    lengths.append(run_of(part=2, seed=1, held_out=0.0))
    twice = run_of(rule=Rule("head", 0.2), num_full=0, other_backward_ms=2.0)
    assert at_equal_time(twice, lengths) == pytest.approx(0.7)
    between = replace(twice, other_backward_ms=2**0.5)  # 2 sqrt(2): halfway from 2 to 4 by its logarithm
    assert at_equal_time(between, lengths) == pytest.approx(0.6)
    assert at_equal_time(replace(twice, other_backward_ms=0.5), lengths) is None
    assert at_equal_time(replace(twice, seed=2), lengths) is None


def test_rate_is_the_best_on_held_out_samples_and_shorter_runs_do_not_count() -> None:
    runs = [run_of(rate=0.3, held_out=None), run_of(rate=0.1, held_out=0.9), run_of(rate=0.03, held_out=0.9)]
    runs += [run_of(rate=0.3, held_out=0.99, part=2), run_of(rate=0.3, held_out=0.99, seed=1)]
    assert best_rates(runs) == {(TASK, EVERYTHING): 0.03}
    runs.append(run_of(rate=0.03, part=4))
    assert [run.part for run in shortened(runs)[TASK]] == [4, 1]
    assert [run.rate for run in counted(runs)[TASK, EVERYTHING]] == [0.03]


def test_finalists_are_the_fastest_that_holds_and_the_most_accurate() -> None:
    runs = screened(lambda rule: 0.8 + (rule == GRID[-1]) * 0.1 - (rule.probability < 0.2) * 0.006)
    assert finalists(counted(runs[1:]), TASK) == {}
    chosen = finalists(counted(runs), TASK)
    assert chosen == {"fastest": Rule("head", 0.2), "most accurate": GRID[-1]}
    lossy = screened(lambda rule: 0.9 if rule == EVERYTHING else 0.8)
    assert finalists(counted(lossy), TASK).keys() == {"most accurate"}


def test_rounds_build_upon_one_another_and_end() -> None:
    tasks = Options().tasks
    assert {net for net, _ in tasks} == set(NETS) - set(FULL_NETS)
    runs: list[Run] = []
    counts = []
    for jobs_of in ROUNDS:
        jobs = runner._pending([job for task in tasks for job in jobs_of(task, runs)], runs, Options())
        runs += [run_of(job.task, job.rule, rate=job.rate, seed=job.seed, part=job.part) for job in jobs]
        counts.append(len(jobs))
    assert counts[:2] == [8 * 3 * len(RATES), 8 * (len(GRID) + len(INVERSE) - 2 + len(STATIC))]
    # all are as accurate, so one rule is both finalists
    assert counts[2:5] == [8 * (len(RATES) - 1), 8 * 2 * 2, 8 * len(SEEDS) * len(SHORTENED)]
    assert not any(runner._pending(jobs_of(task, runs), runs, Options()) for jobs_of in ROUNDS for task in tasks)
    with pytest.raises(ValueError, match="found nonsense"):
        _ = Options(nets=("nonsense",)).tasks


def test_tables_show_seeds_times_and_what_was_not_run(tmp_path: Path) -> None:
    runs = screened(lambda rule: 0.8)
    runs += [
        run_of(rule=rule, seed=seed, held_out=0.8 + 0.1 * seed) for seed in (1, 2) for rule in (EVERYTHING, GRID[0])
    ]
    runs += [run_of(part=8, held_out=0.5, seed=seed) for seed in SEEDS]
    runs += [run_of(part=2, held_out=0.6, seed=seed) for seed in SEEDS]
    runs += [run_of(rule=rule, held_out=None if rule == STATIC[1] else 0.7) for rule in STATIC]
    parts = table.render(runs, (), ())
    assert (
        "| MLP, width 64 | fashion | 80.00 ± 10.00 | fastest | head, p = 0.05 | 80.00 ± 10.00 | +0.00 ± 0.00 | yes |"
        in (parts["finalists"])
    )
    assert "| MLP, width 64 | cifar | not run | not run |" in parts["finalists"]
    assert "| MLP, width 64 | fashion | 80.00 ± 10.00 | 50.00 ± 0.00 | not run | 40.00 ± 0.00 |" in parts["lengths"]
    assert "| MLP, width 64 | 0.2 | 70.00 (2.5 x) | 70.00 (2.5 x) | 70.00 (2.5 x) |" in parts["grid fashion"]
    assert "| MLP, width 64 | fashion | 60.00 (4.0 x) | diverged | 60.00 (4.0 x) |" in parts["static"]
    assert "| MLP, width 1024 | not run |" in parts["grid cifar"]
    draw(runs, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_check_names_what_is_missing_and_expects_every_row() -> None:
    runs = screened(lambda rule: 0.8)
    expected, found = read_expected(FOLDER / "expected.csv"), table.measured(runs, lines())
    assert found.keys() == expected.keys() and table.measured([], ()) == {}
    missing = list(table.failures(expected, found))
    assert "mlp_64_fashion_most_accurate: needs 3 seeds, has 1; run it" in missing
    assert not any(line.startswith("cnn_cifar_fastest:") for line in missing)  # need not be there


def lines() -> list[dict[str, object]]:
    """A full step of 2 + 8 ms, and backwards of 2 ms where only the top learns; the model holds but for 10 %."""
    found: list[dict[str, object]] = []
    for net, rule in product(speed.NETS, speed.RULES):
        backward_ms = 1.1 * (8 * rule.probability + 2 * (1 - rule.probability)) if 0 < rule.probability < 1 else 2.0
        backward_ms = 8.0 if rule == EVERYTHING else backward_ms
        times = {"forward_ms": 1.0, "backward_ms": backward_ms, "update_ms": 1.0, "step_ms": backward_ms + 2}
        found.append({"run": "r", "net": net, "how": "ours", **rule._asdict(), **times, "machine": WHERE})
    return found


def test_times_stand_beside_the_model() -> None:
    own = time_tables.speed_ups("mlp", lines())[Rule("half", 0.5)]
    assert own.backward == pytest.approx(8 / 5.5) and own.model == pytest.approx(1.6)
    assert own.off == pytest.approx(100 * (1 / 1.1 - 1)) and own.step_off == pytest.approx(0)
    parts = time_tables.time_parts(lines(), ())
    assert (
        "| half, p = 0.5 | 1.00 | 5.50 | 1.00 | 7.50 | 1.45 | 1.60 | -9.1 % | 1.33 | 1.33 | +0.0 % |"
        in parts["time cnn"]
    )
    assert "| *full SGD, by hand* | not run |" in parts["time cnn"] and "| full SGD | not run |" in parts["ranks"]


def test_sum_of_turns_is_the_mean_of_the_medians_over_turns() -> None:
    def step(ms: float, *, full: bool) -> Step:
        return Step(full=full, forward_ms=ms, backward_ms=ms, update_ms=ms, whole_ms=3 * ms)

    turns = [[step(10.0, full=True), step(1.0, full=False)] for _ in range(2)]
    turns.append([step(90.0, full=True), step(2.0, full=False)])
    found = speed.summed_up(turns)
    assert (found["backward_ms"], found["step_ms"]) == (5.5, 16.5)
    assert (found["full_backward_ms"], found["other_backward_ms"]) == (10.0, 1.0)


@pytest.mark.experiment
@pytest.mark.parametrize("turn", [speed.turn, speed.turn_by_hand])
def test_turn_is_timed(turn: Callable[..., list[Step]]) -> None:
    net = replace(speed.NETS["mlp"], make=lambda: make_linear((8,) * 5 + (10,), (784,)))
    found = turn(net, Rule("third", 0.5), steps=4)
    assert [step.full for step in found].count(True) == 2 and len(found) == 4
    assert all(step.whole_ms is not None and step.whole_ms >= step.backward_ms for step in found)


def test_loop_by_hand_moves_only_what_learns() -> None:
    network = make_linear((8, 8, 4), (6,))
    before = [p.detach().clone() for p in network.parameters()]
    by_hand(network, ("4",), [False, False], (torch.randn(4, 6), torch.tensor([0, 1, 2, 3])))
    moved = [not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)]
    assert moved == [False] * 4 + [True] * 2


def pipelined(case: stages.Case, *, delay: int) -> tuple[Config, dict[str, torch.Tensor]]:
    config = replace(stages.make_config(case, width=16, steps=30, executor="simulate"), delay=(delay,))
    return config, run_simulated(prepare(config)).export()


@pytest.mark.parametrize("case", [stages.Case(1, 0.3), stages.Case(2, 0.2)])
def test_microbatches_in_flight_change_nothing_of_what_is_learned(case: stages.Case) -> None:
    (_, alone), (config, together) = pipelined(case, delay=1), pipelined(case, delay=4)
    assert config.delay == (4,)
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_stages_send_gradients_at_full_steps_only_and_wait_less() -> None:
    full, sparse = (stages.play(case, width=16, steps=40) for case in (stages.CASES[0], stages.Case(1, 0.1)))
    each = 32 * 16 * 4
    assert full["up_bytes"] == full["down_bytes"] == sparse["up_bytes"] == [each] * 3
    (sent,) = set(sparse["down_bytes"])
    assert 0 < sent < 0.3 * each and sparse["period_s"] < 0.5 * full["period_s"]
    assert sparse["waiting"][-1] < full["waiting"][-1]
    both: Iterator[dict[str, object]] = (
        {"run": "r", "top": 1, "probability": p, **line, "machine": WHERE} for p, line in ((1.0, full), (0.1, sparse))
    )
    part = time_tables.time_parts((), list(both))["virtual stages"]
    assert "| top 1 of 4, p = 0.5 | not run |" in part and "| full SGD | 12." in part


def test_tuned_rule_is_one_of_the_grid() -> None:
    assert TUNED in GRID and len(TASKS) == 2 * len(NETS)
