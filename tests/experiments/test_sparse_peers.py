"""Is each rule what it is called, is its rate chosen on held-out samples, and do the tables say what the runs say?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.records import append_record
from experiments.sparse_peers import config as settings
from experiments.sparse_peers import run as runner
from experiments.sparse_peers import speed, table
from experiments.sparse_peers.config import CELLS, LARGE, RATES, SEEDS, SMALL, TASKS, Cell, Split, Task, make_config
from experiments.sparse_peers.picture import draw
from experiments.sparse_peers.results import (
    FOLDER,
    Ratios,
    Run,
    Timing,
    at_the_edge,
    choose,
    counted,
    differences,
    pending,
    ratios,
    read_runs,
    state_ratio,
)
from experiments.sparse_peers.rules import FULL, RULES, UNITS, Course, shares
from experiments.sparse_peers.run import Job, measure, work
from experiments.sparse_peers.tables import over_tasks
from pipeline import prepare
from tests.experiments.checks import check

TASK = Task("mlp", "fashion")
CELL = Cell(SMALL, TASK, "SGD", FULL)
SHORT = Course(steps=2, epoch=1, turn=1, draw=1)
GRID = RATES["SGD"]
WHERE = {"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"}


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few random pictures instead of the data sets."""

    def small(data: str, size: str = SMALL) -> Split:
        drawn = torch.Generator().manual_seed(0)
        x = torch.randn(100, *settings.SHAPES[data], generator=drawn)
        y = torch.randint(10, (100,), generator=drawn)
        return Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)

    monkeypatch.setattr(settings, "split", small)
    monkeypatch.setattr(runner, "split", small)


def run_of(cell: Cell = CELL, **more: Any) -> Run:
    """With full training at the middle rate as a rule, 80 % held out and 70 % on the test samples."""
    fields: dict[str, Any] = {
        "rate": RATES[cell.optimizer][2],
        "seed": SEEDS[0],
        "steps": 600,
        "learned": 0.5,
        "state_bytes": 2048,
        "held_out_accuracy": 0.8,
        "test_accuracy": 0.7,
        "wall_s": 6.0,
        "machine": WHERE,
    }
    task = {"size": cell.size, "net": cell.task.net, "data": cell.task.data}
    return Run(**task, optimizer=cell.optimizer, rule=cell.rule, **(fields | more))


def tried(*accuracies: float | None, cell: Cell = CELL, first: int = 1) -> list[Run]:
    """A run of the first seed for each rate of the grid, from the `first` on."""
    rates = RATES[cell.optimizer][first:]
    return [run_of(cell, rate=rate, held_out_accuracy=each) for rate, each in zip(rates, accuracies, strict=False)]


def finished(cell: Cell, *, points: float = 0.0, **more: Any) -> list[Run]:
    """The inner rates with the first seed, and all seeds at the middle one: full training gains a point a seed."""
    runs = tried(0.7, 0.8, 0.7, cell=cell)
    return runs + [run_of(cell, seed=seed, test_accuracy=0.7 + 0.01 * (seed + points), **more) for seed in SEEDS]


def timing_of(rule: str, backward_ms: float, *, run: str = "a") -> Timing:
    times = {"forward_ms": 1.0, "backward_ms": backward_ms, "update_ms": 1.0, "step_ms": 2.0 + backward_ms}
    kind = {"size": SMALL, "net": "mlp", "optimizer": "SGD", "rule": rule}
    return Timing(run=run, **kind, rounds=3, steps=50, learned=0.5, **times, machine=WHERE)


@pytest.mark.experiment
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_with_every_network_and_optimiser_it_is_made_for(noise: None, rule: str) -> None:
    for cell in (cell for cell in CELLS if cell.rule == rule and cell.size == SMALL):
        run = measure(cell, rate=1e-3, seed=SEEDS[0], course=SHORT)
        assert run.cell == cell and run.held_out_accuracy is not None and run.test_accuracy is not None
        assert 0 < run.learned <= 1 and (rule != FULL or run.learned == 1)


@pytest.mark.experiment
@pytest.mark.parametrize("net", ["mlp", "cnn"])
@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != FULL])
def test_layer_steps_are_counted_as_the_framework_lets_units_learn(noise: None, net: str, rule: str) -> None:
    course = Course(steps=24, epoch=6, turn=2, draw=3)
    config = make_config(Cell(SMALL, Task(net, "fashion"), "SGD", rule), rate=0.01, seed=5, course=course)
    participants = prepare(config).participants(0)
    assert participants is not None and participants.shared.stages == (UNITS,)
    learning = [participants.own(step) for step in range(24)]
    found = shares(config.participation, seed=5, stop=24)
    assert found.learned == pytest.approx(sum(map(len, learning)) / (24 * 6))
    reached = [6 - min(UNITS.index(unit) for unit in units) for units in learning]
    assert found.reached == pytest.approx(sum(reached) / (24 * 6))


@pytest.mark.experiment
def test_state_that_is_counted_is_that_of_one_unit_in_turn_or_of_all(noise: None) -> None:
    units = [sum(p.nbytes for p in unit.parameters()) for unit in settings.network(TASK)]
    course = Course(steps=24, epoch=6, turn=2, draw=3)

    def kept(rule: str) -> int:
        return measure(Cell(SMALL, TASK, "Adam", rule), rate=1e-3, seed=1, course=course).state_bytes

    scalars = 4 * 2 * len(UNITS)  # Adam counts the steps of each parameter
    assert kept(FULL) == 2 * sum(units) + scalars
    assert kept("badam") == 2 * max(units) + 4 * 2
    assert kept("top") == 2 * sum(units[-2:]) + 4 * 4


@pytest.mark.experiment
def test_run_that_diverges_is_recorded_as_such_and_other_seeds_see_no_held_out_samples(
    noise: None, tmp_path: Path
) -> None:
    lost = measure(CELL, rate=1e30, seed=0, course=SHORT)
    later = measure(CELL, rate=0.01, seed=1, course=SHORT)
    assert (lost.held_out_accuracy, lost.test_accuracy) == (None, None)
    assert later.held_out_accuracy is None and later.test_accuracy is not None
    for run in (lost, later):
        append_record(run, tmp_path / "results.jsonl")
    assert read_runs(tmp_path) == [lost, later]


def test_rate_is_the_best_on_held_out_samples_once_its_neighbours_have_been_tried() -> None:
    first = [(rate, SEEDS[0]) for rate in GRID[1:4]]
    assert pending(CELL, []) == first and choose(CELL, []) is None
    assert pending(CELL, tried(0.7)) == first[1:]
    inner = tried(0.7, 0.8, 0.8)
    assert choose(CELL, inner) == GRID[2] and not at_the_edge(CELL, GRID[2])
    assert pending(CELL, inner) == [(GRID[2], seed) for seed in SEEDS[1:]]
    rising = tried(0.6, 0.7, 0.8)
    assert choose(CELL, rising) is None and pending(CELL, rising) == [(GRID[4], SEEDS[0])]
    assert choose(CELL, [*rising, *tried(0.7, first=4)]) == GRID[3]
    beyond = [*rising, *tried(0.9, first=4)]
    assert choose(CELL, beyond) == GRID[4] and at_the_edge(CELL, GRID[4])
    assert pending(CELL, tried(None, None, None)) == [(GRID[0], SEEDS[0])]
    assert choose(CELL, tried(None, 0.1, None)) == GRID[2]
    better_on_test = replace(inner[0], held_out_accuracy=0.1, test_accuracy=1.0)
    assert choose(CELL, [better_on_test, *inner[1:]]) == GRID[2]


def test_job_chooses_a_rate_runs_all_seeds_and_goes_on_where_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[float, int]] = []

    def made_up(cell: Cell, *, rate: float, seed: int) -> Run:
        made.append((rate, seed))
        return run_of(cell, rate=rate, seed=seed, held_out_accuracy=1 - rate if seed == SEEDS[0] else None)

    monkeypatch.setattr(runner, "measure", made_up)
    monkeypatch.setattr(runner, "keep_freed_memory", lambda: None)
    told: list[Any] = []
    known = tried(0.99, 0.97)  # as made up above
    work(Job(cell=CELL, runs=tuple(known)), told.append)
    assert made == [(GRID[3], 0), (GRID[0], 0), (GRID[0], 1), (GRID[0], 2)]
    assert told[-1] == 1 and not pending(CELL, [*known, *told[:-1]])


def test_differences_are_paired_by_seed_at_the_chosen_rates() -> None:
    other = CELL._replace(rule="badam")
    own = counted([*finished(CELL), *finished(other, points=-2.0, state_bytes=512)])
    assert differences(own, other) == {seed: pytest.approx(-2.0) for seed in SEEDS}
    assert state_ratio(own, optimizer="SGD", rule="badam") == 0.25
    assert over_tasks(own, optimizer="SGD", rule="badam") == []  # on one task only
    lost = counted([*finished(CELL), *finished(other), run_of(other, seed=2, test_accuracy=None)])
    assert differences(lost, other).keys() == {0, 1}


def test_times_are_compared_within_the_newest_process_that_has_both() -> None:
    kind = {"size": SMALL, "net": "mlp", "optimizer": "SGD", "rule": "lisa"}
    first = [timing_of(FULL, 8.0), timing_of("lisa", 4.0)]
    assert ratios(first, **kind) == Ratios(0.5, 0.6)
    assert ratios([*first, timing_of("lisa", 1.0, run="b")], **kind) == Ratios(0.5, 0.6)
    again = [timing_of(FULL, 8.0, run="b"), timing_of("lisa", 6.0, run="b")]
    assert ratios([*first, *again], **kind) == Ratios(0.75, 0.8)
    assert ratios(again, **{**kind, "net": "cnn"}) is None


def test_timed_turn_is_like_the_average_one_of_its_rule() -> None:
    first, stop = speed.WARM_UP, speed.WARM_UP + speed.NUM_TIMED
    wanted = {"plws 0.1": (2 + 0.1 * 4) / 6, "plws 0.3": (2 + 0.3 * 4) / 6, "badam": 1 / 6, "lisa": 4 / 6}
    wanted |= {"multirate": 0.5, "layerout rising": 3.5 / 6, "layerout falling": 3.5 / 6}
    for rule, learned in wanted.items():
        found = shares(RULES[rule].make(speed.COURSE), seed=speed.typical_seed(rule), first=first, stop=stop)
        assert found.learned == pytest.approx(learned, abs=0.02)


@pytest.mark.experiment
def test_turn_is_timed_step_by_step() -> None:
    steps = speed.turn(CELL._replace(rule="top"))
    assert len(steps) == speed.NUM_TIMED
    assert all(0 < each.forward_ms + each.backward_ms + each.update_ms < each.whole_ms for each in steps)
    slow = [replace(each, backward_ms=1e6) for each in steps]
    assert speed.summed_up([steps, slow, steps]) == speed.summed_up([steps])


def test_tables_show_what_was_run_and_flag_what_lies_at_the_edge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [run for cell in CELLS if cell.size != LARGE for run in finished(cell, points=-(cell.rule == "lisa"))]
    edge = Cell(SMALL, TASKS[1], "Adam", "badam")
    runs += [run_of(edge, rate=RATES["Adam"][4], held_out_accuracy=0.95)]
    runs += [run_of(edge, rate=RATES["Adam"][3], held_out_accuracy=0.9)]
    timings = [timing_of(FULL, 8.0), timing_of("lisa", 4.0)]
    parts = table.render(runs, timings)
    line = "| SGD | LISA: both ends and 2 drawn | 0.03 | 70.00 ± 1.00 | -1.00 ± 0.00 | 50 | 0.50 | 0.60 | 2 |"
    assert line in parts["mlp fashion"]
    assert "| Adam | BAdam: one in turn, random order | 0.01 (edge) | 70.00 | +0.00 |" in parts["cnn fashion"]
    assert "badam" not in parts["warnings"] and "the best rate, 0.01, is at the edge" in parts["warnings"]
    assert "VGG-like CNN, Fashion-MNIST, Adam, BAdam: one in turn, random order: not all" in parts["warnings"]
    assert "| LISA: both ends and 2 drawn | -1.00 ± 0.00 | -1.00 ± 0.00 | 50 |" in parts["summary"]
    assert "8.00 ms | 10.00 ms" in parts["time small"] and "not run" in parts["time large"]
    assert "LISA: both ends and 2 drawn, Adam | -1.00 to -1.00 |" in parts["claims"]
    assert "| large | 92 | 0 | 0 | not run |" in parts["cost"]
    draw(runs, timings, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0
    (tmp_path / "README.md").write_text((FOLDER / "README.md").read_text())
    append_record(run_of(), tmp_path / "results.jsonl")
    assert any("'mlp fashion'" in line or "'warnings'" in line for line in check(table, tmp_path, capsys))
    assert table.main(folder=tmp_path) == 0 and check(table, tmp_path, capsys) == []
