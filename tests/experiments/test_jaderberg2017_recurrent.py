"""Does the experiment on recurrent networks run, and does its table say no more than its results?"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.expected import read_expected
from experiments.jaderberg2017_recurrent import config, learning, results, run, table
from experiments.jaderberg2017_recurrent.sequences import BITS, Curriculum, Level, draw
from experiments.records import append_record
from tests.experiments.checks import check

needs_data = pytest.mark.skipif(not os.environ.get("DNI_DATA"), reason="DNI_DATA names no folder with the texts")

LOSSES = {
    "copy_bptt_2": [5.543298, 5.523747, 5.539744, 5.561271, 5.542381, 5.556157],
    "copy_dni_2": [5.543298, 5.523747, 5.539377, 5.55852, 5.541468, 5.556629],
    "repeat_copy_dni_2": [12.491419, 12.421345, 12.312658, 12.235508, 12.147085, 12.017843],
    "shakespeare_bptt_8": [166.523666, 164.729111, 163.074696, 160.983727],
    "shakespeare_dni_8": [166.523666, 164.729111, 163.071301, 160.975712],
    "shakespeare_aux_8": [166.523666, 164.729111, 163.071301, 160.977596],
    "wikitext2_dni_8": [205.9198, 203.515984, 200.998772, 197.700264],
}
"""Per sample, of the first updates with seed 0."""


@pytest.mark.experiment
@pytest.mark.parametrize("row", [name for name in LOSSES if "copy" in name])
def test_first_losses_of_copying_are_those_written_down(row: str) -> None:
    found = islice(learning.copy_sequences(config.ROWS[row], config.COPYING, seed=0), len(LOSSES[row]))
    assert [progress.loss for progress in found] == pytest.approx(LOSSES[row], rel=1e-4)


@needs_data
@pytest.mark.experiment
@pytest.mark.parametrize("row", [name for name in LOSSES if "copy" not in name])
def test_first_losses_of_the_character_model_are_those_written_down(row: str) -> None:
    found = islice(learning.model_characters(config.ROWS[row], config.CHARACTERS, seed=0), len(LOSSES[row]))
    assert [progress.loss for progress in found] == pytest.approx(LOSSES[row], rel=1e-4)


@needs_data
@pytest.mark.experiment
def test_a_measured_run_says_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "CHARACTERS", replace(config.CHARACTERS, hidden=8, embedding=4))
    told: list[int] = []
    measured = run.measure(run.Job("shakespeare_aux_8", 3, steps=80, label="try"), told.append)
    assert measured.seed == 3 and measured.steps == sum(told) == 80 and measured.updates == 2
    assert 5 < measured.value < 7 and measured.valid is not None and 5 < measured.valid < 7  # 65 symbols: 6 bits
    assert measured.num_parameters == 65 * 4 + 4 * 8 * (4 + 8 + 2) + 65 * 9
    assert measured.synthesizer_parameters == 2 * (16 * 16 + 16)
    assert measured.settings["budget"] == 80 and measured.label == "try"


@pytest.mark.experiment
def test_a_measured_run_of_copying_counts_what_it_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "COPYING", replace(config.COPYING, hidden=32, rate=2e-2))
    measured = run.measure(run.Job("copy_bptt_5", 0, steps=900))
    assert measured.value >= 1 and measured.curve[-1][1] == measured.value and measured.steps >= 900
    assert measured.synthesizer_parameters == 0 and measured.valid is None
    assert measured.trying == measured.value + 1 and measured.error is not None and measured.error > 0.1


def test_copy_shows_vectors_then_a_mark_and_asks_for_the_vectors() -> None:
    made = draw("copy", Level(3), num_samples=2, generator=torch.Generator().manual_seed(0))
    assert made.x.shape == (7, 2, BITS + 2) and made.targets.shape == (7, 2, BITS)
    assert made.asked.tolist() == [0, 0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(made.targets[4:], made.x[:3, :, :BITS])
    assert made.x[3, 0, BITS] == 1 and made.x[:, :, BITS].sum() == 2 and not made.x[4:].any()
    assert set(made.x[:3, :, :BITS].flatten().tolist()) == {0.0, 1.0}


def test_repeat_copy_asks_for_the_vectors_again_and_for_a_mark_at_the_end() -> None:
    made = draw("repeat_copy", Level(2, 3), num_samples=2, generator=torch.Generator().manual_seed(0))
    assert made.x.shape[0] == 2 + 1 + 6 + 1 and made.targets.shape[2] == BITS + 1
    for repeat in range(3):
        start = 3 + 2 * repeat
        torch.testing.assert_close(made.targets[start : start + 2, :, :BITS], made.x[:2, :, :BITS])
    assert made.targets[:, 0, BITS].tolist() == [0] * 9 + [1]
    assert made.x[2, 0, BITS + 1] == pytest.approx(0.3)


def test_the_curriculum_goes_on_once_the_mean_of_its_batches_is_low_enough() -> None:
    curriculum = Curriculum(task="repeat_copy", num_batches=2)
    assert [curriculum.see(error) for error in (0.1, 0.3, 0.1, 0.1)] == [False, False, False, True]
    assert curriculum.solved == Level(1, 1) and curriculum.level == Level(2, 1)
    assert not curriculum.see(0.0) and curriculum.see(0.2)
    assert curriculum.level == Level(2, 2) and curriculum.solved is not None and curriculum.solved.score == 2
    copying = Curriculum(task="copy", num_batches=1)
    assert copying.see(0.0) and copying.see(0.0) and copying.level == Level(3, 1)


def test_the_error_counts_only_the_answers_asked_for() -> None:
    made = draw("copy", Level(2), num_samples=3, generator=torch.Generator().manual_seed(0))
    loss_of = learning._error_of(made)
    y = torch.zeros(len(made.x), 3, BITS)
    assert loss_of(y[:3], slice(0, 3)).item() == 0.0
    at_chance = loss_of(y, slice(0, len(y))).item()
    assert at_chance == pytest.approx(2 * 3 * BITS * 0.693147, rel=1e-5)


def test_bits_per_byte_of_a_uniform_model_are_the_logarithm_of_its_symbols() -> None:
    class Uniform(torch.nn.Module):
        def forward(self, x: Tensor, state: None) -> tuple[Tensor, None]:
            return torch.zeros(*x.shape, 16), None

    found = learning.bits_per_byte(Uniform(), torch.arange(160, dtype=torch.uint8) % 16, num_streams=4, window=7)
    assert found == pytest.approx(4.0)


def test_every_row_is_expected_and_jobs_done_before_are_skipped() -> None:
    assert list(config.ROWS) == list(read_expected(results.EXPECTED))
    options = run.Options(rows=("copy_dni_3", "shakespeare_dni_8"), seeds=(0, 1))
    jobs = run.pending_jobs(options, {("copy_dni_3", 0)})
    assert [(job.row, job.seed) for job in jobs] == [
        ("shakespeare_dni_8", 0),
        ("copy_dni_3", 1),
        ("shakespeare_dni_8", 1),
    ]
    with pytest.raises(ValueError, match=r"rows must be among copy_bptt_2, .*; found copy_dni_9\."):
        run.pending_jobs(run.Options(rows=("copy_dni_9",)), set())
    with pytest.raises(ValueError, match="at least a span, 40; found 10"):
        run.pending_jobs(run.Options(steps=10), set())
    assert len(run.pending_jobs(run.Options(), set())) == 34
    assert len(run.pending_jobs(run.Options(full=True), set())) == len(config.ROWS)


def made_up(row: str, seed: int, value: float) -> results.Run:
    return results.Run(
        row=row,
        seed=seed,
        label="made up",
        value=value,
        valid=None if "copy" in row else value + 0.1,
        trying=9 if "copy" in row else None,
        error=0.4 if "copy" in row else None,
        curve=[(100, value)],
        steps=100,
        updates=10,
        wall_s=20.0,
        num_parameters=80_000,
        synthesizer_parameters=0,
        settings={},
        machine={"processor": "none", "cores": 2, "torch": "2.13"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the experiment with made-up results, its tables rebuilt."""
    shutil.copy(results.FOLDER / "README.md", tmp_path)
    lines = results.EXPECTED.read_text().splitlines()
    cells = [line.split(",") for line in lines]
    ours, seeds = cells[0].index("ours"), cells[0].index("seeds")
    for line in cells[1:]:
        line[ours], line[seeds] = ("8", "1") if line[0] in ("copy_bptt_3", "copy_dni_3") else ("", "0")
    (tmp_path / "expected.csv").write_text("\n".join(",".join(line) for line in cells) + "\n")
    for row, value in (("copy_bptt_3", 7.0), ("copy_bptt_3", 9.0), ("copy_dni_3", 8.0)):
        append_record(made_up(row, int(value), value), tmp_path / "results.jsonl")
    assert table.main(folder=tmp_path) == 0
    return tmp_path


def test_check_accepts_tables_made_from_their_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(table, folder, capsys) == []
    readme = (folder / "README.md").read_text()
    assert "| 3 | 8.0 ± 1.4 (8) | 8 (14) | not run (17) | not run (5) |" in readme
    assert "| copy_dni_3 | 8 | 1 | length 9, error 0.40 | 100 |" in readme
    assert "| BPTT | 40 | not run | not run | 1.34 |" in readme and "| wikitext2_aux_8 | not run |" in readme


def test_check_names_a_row_outside_its_tolerance_without_seeds_or_without_an_expectation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row, value in (("copy_dni_3", 20.0), ("repeat_copy_dni_2", 5.0)):
        append_record(made_up(row, 1, value), folder / "results.jsonl")
    lines = check(table, folder, capsys)
    assert "copy_dni_3: 14.000 lies outside 8.000 ± 2.000" in lines
    assert "repeat_copy_dni_2: expected.csv has no value of ours; the results give 5.000" in lines
    assert sum("run table.py" in line for line in lines) == 2
    (folder / "results.jsonl").unlink()
    assert "copy_bptt_3: needs 1 seeds, has 0; run it" in check(table, folder, capsys)
