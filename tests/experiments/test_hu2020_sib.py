"""Does the few-shot experiment run, and does its table say no more than its results?"""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import omniglot
from experiments.expected import read_expected
from experiments.hu2020_sib import results, run, table
from experiments.hu2020_sib.adaptation import evaluate, train_classifier
from experiments.hu2020_sib.config import ROWS, SEEDS, Row, Settings
from experiments.hu2020_sib.features import Features, compute_features, train_features
from experiments.hu2020_sib.tasks import draw_tasks
from experiments.omniglot import Omniglot
from experiments.records import append_record
from tests.experiments.checks import check

needs_data = pytest.mark.skipif(not os.environ.get("DNI_DATA"), reason="DNI_DATA names no folder with Omniglot")

SETTINGS = Settings(
    channels=4,
    epochs=1,
    feature_batch_size=60,
    tasks_per_batch=2,
    batches=2,
    validation_tasks=3,
    test_tasks=150,
)
LOSSES = {
    "features": [7.221082, 6.180743],
    "1shot_k0": [1.584943, 1.574198],
    "1shot_k3": [1.584943, 1.578593],
    "5shot_k3": [1.565306, 1.571819],
}
"""Of the first two updates, seed 0, η = 1e-2. ξ starts at zero: the first is that of K = 0."""


@pytest.fixture(scope="module")
def data() -> Omniglot:
    """Six made-up characters to a part: blots, each drawn 20 times with noise."""
    generator = torch.Generator().manual_seed(0)
    blots = (torch.rand(18, 1, 1, 28, 28, generator=generator) < 0.3).float()
    drawings = (blots + 0.3 * torch.randn(18, 20, 1, 28, 28, generator=generator)).clamp(0, 1)
    return Omniglot(train=drawings[:6], validation=drawings[6:12], test=drawings[12:])


@pytest.fixture(scope="module")
def features(data: Omniglot) -> Features:
    return compute_features(train_features(data.train, seed=0, settings=SETTINGS), data)


@pytest.mark.experiment
def test_first_losses_of_the_features_are_those_written_down(data: Omniglot) -> None:
    losses: list[float] = []
    network = train_features(data.train, seed=0, settings=SETTINGS, on_loss=losses.append)
    assert losses == pytest.approx(LOSSES["features"], rel=1e-4)
    assert not network.training and network(data.test[0]).shape == (20, 4)


@pytest.mark.experiment
@pytest.mark.parametrize("name", ["1shot_k0", "1shot_k3", "5shot_k3"])
def test_first_losses_of_a_classifier_are_those_written_down(name: str, features: Features) -> None:
    losses: list[float] = []
    train_classifier(features.train, row=ROWS[name], step_rate=1e-2, seed=0, settings=SETTINGS, on_loss=losses.append)
    assert losses == pytest.approx(LOSSES[name], rel=1e-4)


@pytest.mark.experiment
def test_a_job_tells_of_its_networks_and_measures_its_rows_against_no_steps(data: Omniglot) -> None:
    told: list[run.Told] = []
    job = run.Job(seed=0, rows=("1shot_k0", "1shot_k1"), settings=SETTINGS)
    run.measure(job, data, told.append)
    networks, rows = [t for t in told if isinstance(t, str)], [t for t in told if isinstance(t, results.Run)]
    assert len(networks) == job.num_networks == 4
    zero, one = rows
    assert (zero.row, zero.gain, zero.step_rate, zero.cosine) == ("1shot_k0", 0.0, 0.0, 0.0)
    assert one.row == "1shot_k1" and one.step_rate in SETTINGS.step_rates and one.train_s > 0
    assert one.gain == pytest.approx(one.accuracy - zero.accuracy, abs=1e-6)
    alone: list[run.Told] = []
    run.measure(replace(job, rows=("1shot_k1",)), data, alone.append)
    assert [(t.accuracy, t.gain) for t in alone if isinstance(t, results.Run)] == [(one.accuracy, one.gain)]


def test_tasks_hold_every_class_evenly_and_no_drawing_twice() -> None:
    numbered = torch.arange(8 * 20.0).view(8, 20, 1)
    tasks = draw_tasks(
        numbered, num_tasks=50, num_classes=5, shots=5, num_queries=15, generator=torch.Generator().manual_seed(0)
    )
    assert tasks.support.shape == (50, 25, 1) and tasks.query.shape == (50, 75, 1)
    for task in range(50):
        drawn = torch.cat([tasks.support[task], tasks.query[task]]).flatten()
        labels = torch.cat([tasks.target[task], tasks.answer[task]])
        assert len(drawn.unique()) == 100
        characters = (drawn // 20).long()
        assert all(len(characters[labels == label].unique()) == 1 for label in range(5))
        assert tasks.answer[task].bincount().tolist() == [15] * 5
    with pytest.raises(ValueError, match=r"tasks of 9 classes with 5 \+ 15 samples need as many, got 8 characters"):
        draw_tasks(numbered, num_tasks=1, num_classes=9, shots=5, num_queries=15, generator=torch.Generator())


def test_classifiers_are_evaluated_on_the_same_tasks_however_many_steps_they_take(features: Features) -> None:
    zero, three = (
        train_classifier(features.train, row=Row(1, k), step_rate=0.0, seed=0, settings=replace(SETTINGS, batches=0))
        for k in (0, 3)
    )
    first, second = (
        evaluate(c, features.test, "test", num_tasks=150, row=Row(1, k), seed=0, settings=SETTINGS)
        for c, k in ((zero, 0), (three, 3))
    )
    assert first.accuracy.shape == (150,) and torch.equal(first.accuracy, second.accuracy)


def test_jobs_done_before_are_skipped_and_wrong_calls_refused() -> None:
    done = [("1shot_k0", 0), *((row, 1) for row in ROWS)]
    first, third = run.pending_jobs(run.Options(seeds=(0, 1, 2)), done)
    assert (first.seed, third.seed) == (0, 2) and set(ROWS) - set(first.rows) == {"1shot_k0"}
    assert third.num_networks == 1 + 2 + 6 * 2
    (again,) = run.pending_jobs(run.Options(rows=("5shot_k3",), seeds=(1,), fraction=0.01), done)
    assert again.rows == ("5shot_k3",) and again.settings.batches == 20 and again.settings.epochs == 1
    with pytest.raises(ValueError, match=r"rows must be among 1shot_k0, .*; found 2shot_k0\."):
        run.pending_jobs(run.Options(rows=("2shot_k0",)), [])
    with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\], got 0\.0"):
        run.pending_jobs(run.Options(fraction=0.0), [])


def test_expected_has_every_row_and_what_was_published() -> None:
    expected = read_expected(results.EXPECTED)
    assert set(ROWS) <= set(expected) and all(expected[row].paper is None for row in ROWS)
    assert expected["mini_1shot_k3"].paper == 70.7 and expected["mini_1shot_k3"].trust == "README"


def made_up(row: str, seed: int, gain: float) -> results.Run:
    return results.Run(
        row=row,
        seed=seed,
        step_rate=0.01 if ROWS[row].num_steps else 0.0,
        validation_accuracy=0.9,
        accuracy=0.9 + gain + 0.001 * seed,
        half_width=0.004,
        gain=gain,
        gain_half_width=0.002,
        cosine=0.5 if ROWS[row].num_steps else 0.0,
        train_loss=0.2,
        train_s=10.0,
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the experiment with made-up results that fulfil everything, its table rebuilt."""
    shutil.copy(results.FOLDER / "README.md", tmp_path)
    with results.EXPECTED.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with (tmp_path / "expected.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        ours = {row: "90.15" if ROWS[row].num_steps == 0 else "95.15" for row in ROWS}
        writer.writerows(line | {"ours": ours.get(line["row"], "")} for line in lines)
    for row in ROWS:
        for seed in SEEDS:
            append_record(made_up(row, seed, 0.05 if ROWS[row].num_steps else 0.0), tmp_path / "results.jsonl")
    assert table.main(folder=tmp_path) == 0
    return tmp_path


def test_check_accepts_a_table_made_from_its_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(table, folder, capsys) == []
    readme = (folder / "README.md").read_text()
    assert "| 1 | 3 | 95.15 ± 0.20 | +5.00 ± 0.10 | 0.13 | 0.01, 0.01, 0.01, 0.01 | 0.50 | 0.200 | 10 | 4 |" in readme
    assert "| 5 | 0 | 90.15 ± 0.20 | - | 0.13 | - | - | 0.200 | 10 | 4 |" in readme
    assert readme.startswith("# Few-shot learning") and "## Differences from the paper" in readme


def test_check_names_what_does_not_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "results.jsonl"
    kept = [line for line in path.read_text().splitlines() if '"1shot_k1"' not in line and '"5shot_k5"' not in line]
    path.write_text("\n".join(kept) + "\n")
    for seed in SEEDS[:3]:
        append_record(made_up("1shot_k1", seed, -0.01), path)
    assert any("the part 'omniglot' is not what the results give" in line for line in check(table, folder, capsys))
    assert table.main(folder=folder) == 0
    assert check(table, folder, capsys) == [
        "1shot_k1: needs 4 seeds, has 3",
        "1shot_k1: 89.10 % lies outside 95.15 ± 1.00 %",
        "5shot_k5: no result; run it",
        "1shot_k1: -1.00 ± 0.12 over K = 0 must be above zero",
    ]


def test_drawings_are_shrunk_to_the_share_of_ink() -> None:
    white = np.ones((2, 3, 56, 56), dtype=bool)
    white[1, 2, :2, 54] = False
    ink = omniglot.shrunk(white)
    assert ink.shape == (2, 3, 1, 28, 28) and ink.dtype == torch.float32
    assert ink[1, 2, 0, 0, 27] == 0.5 and ink.sum() == 0.5


@needs_data
def test_real_omniglot_is_split_by_alphabet() -> None:
    path = omniglot._CHARACTERS.find()
    background, test = (omniglot.read_alphabets(path, part) for part in ("background", "evaluation"))
    assert (len(background), len(set(background))) == (964, 30) and (len(test), len(set(test))) == (659, 20)
    assert set(omniglot.VALIDATION) == set(sorted(set(background))[5::6])
    assert sum(alphabet in omniglot.VALIDATION for alphabet in background) == 158 and not set(background) & set(test)
