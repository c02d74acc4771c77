"""Does the benchmark of faults still strike where it says, and does its README say no more than its results?"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.faults import kills, run, table
from experiments.faults.cases import CASES, Case, faulty, undisturbed
from pipeline import StageFailure, prepare, run_simulated

LOSS = 2.303557
"""Of the second step."""


@pytest.mark.experiment
def test_benchmark_trains_two_steps_with_the_losses_written_down() -> None:
    losses: list[float | None] = []
    config = replace(undisturbed("simulate"), steps=2, log_every=1, evaluate_every=0)
    run_simulated(prepare(config), on_status=lambda statuses: losses.append(statuses[-1].loss))
    assert losses[-1] == pytest.approx(LOSS, rel=1e-4)


@pytest.mark.experiment
@pytest.mark.parametrize("case", [case for case in CASES.values() if case.name.startswith("exception")])
def test_exception_strikes_in_the_phase_that_it_is_named_after(case: Case, tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match=case.culprit):
        run_simulated(prepare(faulty(case, "simulate", folder=tmp_path, agent=0)), folder=tmp_path)
    assert float((tmp_path / "fault").read_text()) > 0


@pytest.mark.experiment
def test_process_that_dies_is_measured_and_its_run_resumed() -> None:
    expected = run_simulated(prepare(undisturbed("simulate"))).export()
    line = run.measure(CASES["SIGKILL"], "simulate", expected=expected)
    assert (line["knows_s"], line["all_know"], line["steps_lost"], line["equal"]) == ([], True, 5, True)


def test_copy_of_a_clock_does_not_tell_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNI_KILLS_FOLDER", str(tmp_path))
    clock, x = kills.Clock(), torch.ones(1)
    copy.deepcopy(clock)(x)
    assert not list(tmp_path.iterdir())
    clock(clock(x))
    assert list(kills.read(tmp_path / "trains.jsonl")) == [0]


def test_claim_that_does_not_hold_is_said_not_to() -> None:
    line = {"fault": "SIGKILL", "executor": "distributed", "knows_s": [0.1, 1.5], "all_know": True, "equal": True}
    faults = [{**line, "names_culprit": True, "steps_lost": 5}]
    killed = {"status": "finished", "arrival": "fixed", "equal": False, "num_kills": 3, "recovered_s": [1.0]}
    claims = "\n".join(table._claims(faults, [killed]))
    assert "within 1 s: **no**; the slowest of 1 runs took 1.50 s" in claims
    assert "3 kills in 1 runs, of which 1 ended; 0 of 1 in `fixed` order are equal" in claims
    assert json.dumps(claims)
