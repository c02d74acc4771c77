"""Are the sets that are put back those that the README names, and does the table claim no more than its results?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dni import absolute_distance
from experiments.datasets import Dataset
from experiments.li2021_active import table
from experiments.li2021_active.config import SETS, SETTINGS, UNITS, network
from experiments.li2021_active.picture import draw
from experiments.li2021_active.results import Reset, Run, append_run, read_expected, read_runs
from experiments.li2021_active.run import Job, Options, jobs, measure, sets

SHORT = replace(SETTINGS, batch_size=32, steps=4, retraining_steps=2)


def noise() -> Dataset:
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 784, generator=drawn), torch.randint(10, (128,), generator=drawn)
    return Dataset(train_x=x, train_y=y, test_x=x, test_y=y, num_classes=10)


def run_of(width: int, seed: int, **more: object) -> Run:
    lost = {"active": 0.5, "lazy": 0.0, "random": 0.02, "random_in_layers": 0.1}
    resets = [
        Reset(
            unit="" if which == "random" else "absolute",
            share=share,
            which=which,
            test_accuracy=0.8 + seed / 100 - lost[which],
            retrained_accuracy=0.85 - lost[which] / 10 if share == SETTINGS.retrained_share else None,
        )
        for share in SETTINGS.reset_shares
        for which in SETS
    ]
    run = Run(
        width=width,
        seed=seed,
        layer_sizes=[600, 200, 100, 100],
        num_active={unit: [[1, 0, 0, 0], [9, 0, 0, 1], [40, 5, 5, 0], [80, 10, 5, 5]] for unit in UNITS},
        moved=[0.1, 0.3, 0.6, 0.8],
        initial_accuracy=0.1,
        test_accuracy=0.8 + seed / 100,
        longer_accuracy=0.85,
        resets=resets,
        wall_s=1.0,
        settings={},
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )
    return replace(run, **more)  # type: ignore[arg-type]


@pytest.mark.experiment
def test_network_is_trained_its_active_parameters_counted_and_every_set_put_back(tmp_path: Path) -> None:
    run = measure(Job(width=8, seed=1), SHORT, noise)
    assert run.layer_sizes == [785 * 8, 9 * 8, 9 * 8, 9 * 10] and run.settings["steps"] == 4
    total = sum(run.layer_sizes)
    for counts in run.num_active.values():
        assert [sum(layers) for layers in counts] == [round(share * total) for share in SHORT.shares]
    assert run.moved == sorted(run.moved) and 0 < run.moved[0] < run.moved[-1] < 1
    assert len(run.resets) == len(SHORT.reset_shares) * (1 + 3 * len(UNITS))
    retrained = [reset for reset in run.resets if reset.retrained_accuracy is not None]
    assert {reset.which for reset in retrained} == set(SETS) and {reset.share for reset in retrained} == {0.1}
    append_run(run, tmp_path / "results.jsonl")
    ((found,),) = read_runs(tmp_path / "results.jsonl").values()
    assert replace(found, settings={}) == replace(run, settings={})


def test_sets_of_a_share_are_of_one_size_and_repeatable() -> None:
    trained = dict(network(8, seed=1).named_parameters())
    distances = {"absolute": absolute_distance(dict(network(8, seed=0).named_parameters()), trained)}
    found = list(sets(distances, SHORT, seed=0))
    assert [which for _, share, which, _ in found if share == 0.1] == ["random", "active", "lazy", "random_in_layers"]
    total = sum(value.numel() for value in trained.values())
    for _, share, _, masks in found:
        assert sum(int(mask.sum()) for mask in masks.values()) == round(share * total)
    again = list(sets(distances, SHORT, seed=0))
    assert all(torch.equal(a[3][name], b[3][name]) for a, b in zip(found, again, strict=True) for name in trained)


def test_what_is_there_is_skipped_and_the_largest_width_is_asked_for() -> None:
    todo = jobs(Options(widths=(32,), seeds=(0, 1)), {(32, 0)})
    assert todo == [Job(width=32, seed=1)]
    assert jobs(Options(widths=(), seeds=(0,), full=True), ()) == [Job(width=2048, seed=0)]


def test_table_shows_shares_densities_and_losses_and_what_was_not_run(tmp_path: Path) -> None:
    runs = {32: [run_of(32, 0), run_of(32, 1)]}
    parts = table.render(runs)
    assert "| 32 | 1,000 | 10.00 ± 0.00 | 80.50 ± 0.71 | 85.00 ± 0.00 | 10 % |" in parts["networks"]
    assert "| 32 | (anywhere) | 60.0 | 20.0 | 10.0 | 10.0 |" in parts["shares"]
    assert "| 32 | relative | 90.0 ± 0.0 | 0.0 ± 0.0 | 0.0 ± 0.0 | 10.0 ± 0.0 |" in parts["shares"]
    assert "| 32 | relative | 1.5 ± 0.0 | 0.0 ± 0.0 | 0.0 ± 0.0 | 1.0 ± 0.0 |" in parts["densities"]
    assert "| 32 | active | 50.00 ± 0.00 | 50.00 ± 0.00 | 50.00 ± 0.00 | 5.00 ± 0.00 |" in parts["resets"]
    assert "| 32 | lazy | 0.00 ± 0.00 | not run | not run |" in parts["units"]
    assert "| 512 | not run |" in parts["resets"]
    wrong = table.failures(read_expected(), runs)
    assert "bottom_share_32: needs 3 seeds, has 2; run it" in wrong
    assert "lost_active_512: needs 3 seeds, has 0; run it" in wrong
    assert table.failures(read_expected(), {}) == []
    draw(runs, tmp_path / "active.png")
    assert (tmp_path / "active.png").stat().st_size > 10_000


def test_random_set_has_no_unit_and_serves_for_each() -> None:
    run = run_of(128, 2)
    assert run.reset("random", unit="relative", share=0.1) == run.reset("random", unit="absolute", share=0.1)
    assert run.reset("active", unit="relative", share=0.1) is None


def test_tables_in_the_readme_are_what_was_recorded() -> None:
    assert table.main(check=True) == 0
