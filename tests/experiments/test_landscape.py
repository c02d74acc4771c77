"""Are checkpoints what the run was, estimates what a loop over samples gives, and is the table its results?"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.landscape import config as settings_of
from experiments.landscape import run as running
from experiments.landscape import table
from experiments.landscape.boundaries import FORMS, fit_forms, grade_boundaries, grade_forms
from experiments.landscape.config import FULL, METHODS, SEEDS, SETTINGS, Job, Settings, Split, config, jobs
from experiments.landscape.estimates import Estimates
from experiments.landscape.frozen import Frozen, freeze
from experiments.landscape.numbers import agreement_along, change_at, implied_at, lowest_along, samples_to_beat
from experiments.landscape.picture import PICTURES, draw
from experiments.landscape.results import Record, Settled, done, read_results, select
from experiments.landscape.run import Options, pending_jobs, work
from experiments.landscape.settle import settle
from experiments.landscape.settle import work as work_settled
from experiments.landscape.slices import LINES, PLANE_STEPS
from pipeline import KeyedBatches, prepare, run_simulated

SMALL = Settings(
    width=8,
    batch_size=4,
    checkpoints=(2, 4),
    num_slice_samples=16,
    num_plane_samples=8,
    num_held_out=16,
    num_fit_samples=32,
    batch_sizes=(2, 4, 8),
    num_estimates=4,
)


SIZED = ("used_pairwise", "true_pairwise", "used_to_truth", "true_to_truth", "used_to_true")


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Split:
    """Random pictures instead of the data set."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(37, 784, generator=drawn), torch.randint(10, (37,), generator=drawn)
    small = Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)
    monkeypatch.setattr(settings_of, "split", lambda: small)
    monkeypatch.setattr(running, "split", lambda: small)
    return small


def frozen_at(folder: Path, step: int, *, method: str = "synthetic with labels", batch_size: int = 4) -> Frozen:
    setting = config(Job(method=method, seed=0), replace(SMALL, batch_size=batch_size))
    run_simulated(prepare(setting), folder=folder)
    return freeze(setting, folder, step)


def test_update_of_a_checkpoint_is_the_step_that_the_run_takes_next(noise: Split, tmp_path: Path) -> None:
    setting = config(Job(method="synthetic with labels", seed=0), replace(SMALL, checkpoints=(2, 3)))
    setting = replace(setting, checkpoint_every=1)
    run_simulated(prepare(setting), folder=tmp_path)
    before, after = (freeze(setting, tmp_path, step) for step in (2, 3))
    update = before.update(before.used_gradient([before.batch])(before.point))
    for name, value in after.point.items():
        torch.testing.assert_close(before.point[name] + update[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.experiment
def test_whole_look_is_recorded_and_with_the_true_gradient_all_agrees(noise: Split, tmp_path: Path) -> None:
    told: list[object] = []
    work(SMALL, Job(method="true gradient", seed=0), told.append)
    records = [each for each in told if isinstance(each, Record)]
    assert [record.step for record in records] == [2, 4] and len(told) == 4
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(asdict(record)) + "\n" for record in records))
    assert read_results(tmp_path / "results.jsonl") == records
    for record in records:
        assert set(record.lines) == set(LINES) and record.plane is not None
        line = record.lines["used"]
        start = line["true"][line["steps"].index(0.0)]
        assert line["implied"] == pytest.approx([value - start for value in line["true"]], abs=0.02)
        for part in record.estimates:
            assert part["cosine"] == pytest.approx(1.0) and part["4"]["used_to_true"] == pytest.approx(1.0)
        assert all(grades["relative_error"] < 1e-5 for grades in record.boundaries)
    assert done(records, records[0].job, (2, 4)) and not done(records, Job(method="local loss", seed=0), (2, 4))
    assert len(select(records, "true gradient", 4)) == 1


@pytest.mark.experiment
@pytest.mark.parametrize("method", [name for name in METHODS if name != "true gradient"])
def test_every_method_can_be_looked_at(noise: Split, tmp_path: Path, method: str) -> None:
    grades = grade_boundaries(frozen_at(tmp_path, 4, method=method), (noise.train_x, noise.train_y))
    assert len(grades) == 3 and all({"relative_error", "target_relative_error"} <= own.keys() for own in grades)
    assert grades[-1]["target_to_truth"] == pytest.approx(0.0, abs=1e-5)  # the last stage sends the truth


def test_estimates_are_means_over_disjoint_samples_and_the_whole_is_of_all(noise: Split, tmp_path: Path) -> None:
    rows = torch.arange(37, dtype=torch.float64)
    seen: list[int] = []

    def gradient(chosen: Tensor) -> dict[str, Tensor]:
        seen.extend(chosen.tolist())
        return {"0.weight": rows[chosen].mean()[None]}

    estimates = Estimates(gradient, 37, SMALL)
    assert sorted(seen) == list(range(37))
    assert {size: len(own) for size, own in estimates.by_size.items()} == {2: 4, 4: 4, 8: 4}
    means = [float(own["0.weight"]) for own in estimates.by_size[8]]
    assert means == pytest.approx([3.5, 11.5, 19.5, 27.5]) and float(estimates.whole["0.weight"]) == pytest.approx(18)


def test_form_that_can_hold_the_truth_finds_it(noise: Split, tmp_path: Path) -> None:
    frozen = frozen_at(tmp_path, 2)
    with torch.no_grad():  # answers that hardly differ: then all samples of a class have the same gradient
        for parameter in frozen.stages[-1].parameters():
            parameter.mul_(1e-3)
    batch = (noise.train_x, noise.train_y)
    (*_, top) = grade_forms(frozen, fit_forms(frozen, batch), batch)
    assert list(top) == list(FORMS)
    assert top["linear with labels"]["relative_error"] < 1e-2 < 0.3 < top["linear, no labels"]["relative_error"]
    assert top["a constant per class"]["parameter_cosine"] > 0.99


def test_pending_are_those_not_measured_and_a_wrong_method_is_named() -> None:
    assert len(jobs()) == len(METHODS) * len(SEEDS) and len(pending_jobs(Options(), [])) == len(jobs())
    assert len(pending_jobs(Options(full=True), [])) == len(jobs()) + len(FULL)
    assert {job.method for job in pending_jobs(Options(only=("local loss",)), [])} == {"local loss"}
    with pytest.raises(ValueError, match="only must name methods, got nothing; there are true gradient"):
        pending_jobs(Options(only=("nothing",)), [])


def record_of(method: str, step: int, seed: int = 0) -> Record:
    line = {"steps": [-1.0, 0.0, 1.0, 2.0], "true": [1.5, 1.0, 0.75, 2.0], "implied": [0.5, 0.0, -0.25, 1.0]}
    sizes = {str(size): dict.fromkeys(SIZED, 0.25) for size in SETTINGS.batch_sizes}
    whole = {"cosine": 0.5, "norm_ratio": 2.0, "projection": 1.0, "relative_error": 0.5}
    parts = [*(f"stage {index}" for index in range(4)), "below the last", "all"]
    grades = {"relative_error": 2.0, "target_relative_error": 0.5, "target_to_truth": 1.5, "parameter_cosine": 0.125}
    plane = [[0.1 * a + b for b in PLANE_STEPS[1]] for a in PLANE_STEPS[0]]
    return Record(
        method=method,
        seed=seed,
        rate=Job(method=method, seed=seed).rate,
        sync=None,
        step=step,
        test_error=0.25 + seed / 10,
        train_loss=1.0,
        lines={name: {**line, "length": [1.0]} for name in LINES},
        lowest={name: {**line, "length": [1.0]} for name in ("used", "true", "used, all samples", "true, all samples")},
        plane={"true": plane, "implied": plane},
        estimates=[{"part": part, **whole, **copy.deepcopy(sizes)} for part in parts],
        boundaries=[grades] * 3,
        forms=[dict.fromkeys(FORMS, grades)] * 3,
        cpu_s=60.0,
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )


def test_numbers_of_a_line_are_read_off_it() -> None:
    record = record_of("local loss", 100)
    line = record.lines["used"]
    assert [agreement_along(line), agreement_along(line, within=1.0)] == pytest.approx([1.0, 1.0])
    assert change_at(line, 1.0) == implied_at(line, 1.0) == -0.25 and lowest_along(line) == (1.0, -0.25)
    assert samples_to_beat(record, "all") == 2**14  # never
    record.estimates[-1]["64"]["true_to_truth"] = 0.5
    assert samples_to_beat(record, "all") == 64


def test_table_shows_what_was_run_with_its_spread_and_what_was_not(tmp_path: Path) -> None:
    records = [record_of(method, 100, seed) for method in ("synthetic with labels", "local loss") for seed in (0, 1)]
    parts = table.render(records, [])
    assert "| synthetic with labels | 30.00 ± 7.07 | not run | not run | not run |" in parts["runs"]
    assert "| synthetic with labels | 100 | 0.50 ± 0.00 | 2.00 ± 0.00 | 1.50 ± 0.00 |" in parts["gap"]
    assert "| local loss | 100 | - | 2.00 ± 0.00 | - |" in parts["gap"]  # it learns from labels, not from above
    assert (
        "| local loss | 500 | not run |" in parts["gap"] and "| 0.0001 | 0.01 | not run | not run |" in parts["sweep"]
    )
    draw(records[:2], tmp_path)
    assert all((tmp_path / name).stat().st_size > 10_000 for name in PICTURES)


@pytest.mark.experiment
def test_sources_that_learn_on_come_closer_to_their_targets_and_the_network_stays(
    noise: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.landscape.settle.split", lambda: noise)
    frozen = frozen_at(tmp_path, 4)
    before = copy.deepcopy(frozen.point)
    batches = KeyedBatches(noise.train_x, noise.train_y, batch_size=4)
    settled = settle(frozen, batches, "true", steps=300)
    first, then = (grade_boundaries(each, (noise.train_x, noise.train_y)) for each in (frozen, settled))
    assert all(b["relative_error"] < a["relative_error"] for a, b in zip(first, then, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in settled.point.items())
    told: list[object] = []
    work_settled(SMALL, 2, Job(method="synthetic with labels", seed=0), told.append)
    (found,) = [each for each in told if isinstance(each, Settled)]
    assert list(found.grades) == ["as it is", "own target", "true target"] and found.step == 4
    table_of = table.render([], [replace(found, step=SETTINGS.checkpoints[1])])["settled"]
    assert "| 500 | and then from the truth |" in table_of and "| 2000 | not at all | not run |" in table_of
