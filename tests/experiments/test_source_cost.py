"""Is what is timed the same arithmetic, and does the table say what was recorded?"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from experiments.source_cost import run, table
from experiments.source_cost.cases import CASES, ByHand, FromPackage, batch


@pytest.mark.parametrize("name", CASES)
def test_both_give_the_same_numbers_bit_for_bit(name: str) -> None:
    h, target, gradient = batch(24, 16)
    ours, hand = FromPackage(CASES[name], h), ByHand(CASES[name], h)
    with torch.no_grad():
        for own, other in zip(ours.source.regression.networks.parameters(), hand.network.parameters(), strict=True):
            other.copy_(own)
    losses = [(ours.learn(h, target, gradient), hand.learn(h, target, gradient)) for _ in range(4)]
    assert all(a == b for a, b in losses) and losses[-1][0] < losses[0][0]
    torch.testing.assert_close(ours.estimate(h, target), hand.estimate(h, target), rtol=0, atol=0)


@pytest.mark.experiment
def test_a_line_holds_times_and_ratios_of_both() -> None:
    line = run.compare("conditional linear", num_samples=8, width=4, rounds=3, builds=2)
    assert line["case"] == "conditional linear" and line["rounds"] == 3
    assert min(line[f"{who}_{part}_us"] for who in ("ours", "hand") for part in ("estimate", "learn")) > 0
    assert json.loads(json.dumps(line)) == line and line["ratio"] > 0


def test_check_names_a_source_that_costs_too_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text((table.HERE / "README.md").read_text())
    times = {f"{who}_{part}_us": 100.0 for who in ("ours", "hand") for part in ("estimate", "learn")}
    where = {"date": "2026-01-01", "processor": "x", "cores": 2, "python": "3", "torch": "2", "commit": None}
    line = {"case": "linear", "num_samples": 64, "width": 256, "rounds": 3, "machine": where, **times}
    line |= {"ratio": 1.05, "estimate_ratio": 1.0, "learn_ratio": 1.1}
    slow = copy.deepcopy(line) | {"width": 512, "ratio": 1.25}
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (slow, line, slow)))
    assert table.main(folder=tmp_path) == 0
    assert "| linear | 64 | 512 | 100 | 100 | 100 | 100 | 1.00 | 1.10 | 1.25 |" in (tmp_path / "README.md").read_text()
    assert table.main(check=True, folder=tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "linear, 64 x 512: costs 1.250 times the same by hand, at most 1.1 is aimed at"
    ]
