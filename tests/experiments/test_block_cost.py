"""Is what is timed the same arithmetic, and does the table say what was recorded?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments.block_cost import run, table
from experiments.block_cost.cases import CUTS, OPTIMIZERS, ByHand, InBlocks


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("cut", [cut for cut in CUTS if "periods" not in cut])
def test_blocks_at_every_step_learn_what_is_learned_by_hand_bit_for_bit(cut: str, optimizer: str) -> None:
    sizes = {"width": 16, "num_samples": 8}
    hand, blocks = ByHand(OPTIMIZERS[optimizer], **sizes), InBlocks(OPTIMIZERS[optimizer], cut, **sizes)
    for step in range(3):
        for contender in (hand, blocks):
            contender.pull_back()
            contender.update(step)
    for own, other in zip(blocks.module.parameters(), hand.module.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=0)


@pytest.mark.experiment
def test_each_cut_gets_a_line_with_its_times_and_ratios() -> None:
    lines = run.compare("Adam", width=16, num_samples=4, cycles=1, builds=1)
    assert [line["cut"] for line in lines] == ["by hand", *CUTS]
    assert lines[0]["update_ratio"] == lines[0]["step_ratio"] == 1.0
    assert all(line["update_us"] > 0 and line["step_us"] > 0 for line in lines)
    assert json.loads(json.dumps(lines)) == lines


def test_check_names_what_costs_too_much(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.md").write_text((table.HERE / "README.md").read_text())
    where = {"date": "2026-01-01", "processor": "x", "cores": 2, "python": "3", "torch": "2", "commit": None}
    line = {"optimizer": "Adam", "width": 1024, "num_samples": 256, "update_us": 1000.0, "step_us": 9000.0}
    line |= {"machine": where, "update_ratio": 1.2, "step_ratio": 1.04}
    rows, quadrants = line | {"cut": "4 row blocks, every step"}, line | {"cut": "quadrants, every step"}
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (rows, quadrants)))
    assert table.main(folder=tmp_path) == 0
    assert (
        "| Adam | quadrants, every step | 1024 | 256 | 1,000 | 1.200 | 9,000 | 1.040 |"
        in (tmp_path / "README.md").read_text()
    )
    assert table.main(check=True, folder=tmp_path) == 1
    assert capsys.readouterr().out.splitlines() == [
        "Adam, 4 row blocks, every step, width 1024: update costs 1.200 times as much as by hand, "
        "at most 1.1 is aimed at"
    ]
