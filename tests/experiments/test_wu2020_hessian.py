"""Are the Hessians of single layers those of the network, and is the table what was found?"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.datasets import Dataset
from experiments.expected import read_expected
from experiments.records import append_record
from experiments.wu2020_hessian import config as rows
from experiments.wu2020_hessian import table
from experiments.wu2020_hessian.config import ARMS, Network, layers
from experiments.wu2020_hessian.layer import Look, look
from experiments.wu2020_hessian.pairs import pairs_of
from experiments.wu2020_hessian.pictures import PICTURES, draw
from experiments.wu2020_hessian.results import FOLDER, Model, read_models
from experiments.wu2020_hessian.run import Job, Options, main, measure
from experiments.wu2020_hessian.summary import measured, num_along_mean, num_outliers, peak
from pipeline import prepare
from tests.experiments.checks import check

MACHINE = {"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"}


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network and random pictures."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 2, 6, 6, generator=drawn), torch.randint(10, (128,), generator=drawn)
    small = Dataset(train_x=x, train_y=y, test_x=x, test_y=y, num_classes=10)
    network = Network(title="", make=stages, load=lambda: small, steps=2, seeds=(0, 1), num_looked_at=32)
    monkeypatch.setitem(rows.NETWORKS, "small", network)  # type: ignore[misc]


def stages() -> list[nn.Module]:
    first = nn.Sequential(nn.Conv2d(2, 6, 3, stride=2), nn.ReLU(), nn.Flatten())
    return [first, nn.Sequential(nn.Linear(24, 10))]


def tiny() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    return network, torch.randn(40, 6, generator=drawn), torch.randint(3, (40,), generator=drawn)


@cache
def one_look() -> Look:
    network, x, target = tiny()
    return look(network, 2, x, target, classes=3, seed=0, density=True)[0]


def look_of(**more: object) -> Look:
    return replace(one_look(), **more)  # type: ignore[arg-type]


def test_layer_within_the_network_has_the_eigenvalues_of_its_block_of_the_whole_hessian() -> None:
    network, x, target = tiny()

    def loss(weight: torch.Tensor) -> torch.Tensor:
        h = network[1](network[0](x))
        return nn.functional.cross_entropy(network[4](network[3](h @ weight.T + network[2].bias)), target)

    dense = torch.autograd.functional.hessian(loss, network[2].weight.detach()).reshape(20, 20)
    values, vectors = torch.linalg.eigh(dense)
    found, frame = look(network, 2, x, target, classes=3, seed=0, density=False)
    assert found.values == pytest.approx(values.flip(0)[:8].tolist(), rel=1e-3, abs=1e-4)
    assert (found.layer, found.rows, found.columns, frame.shape) == (1, 4, 5, (20, 8))
    assert (frame[:, 0] @ vectors[:, -1]).abs() == pytest.approx(1, abs=1e-3)
    # Above the layer everything is piecewise linear.
    assert found.gauss_newton_cosine == pytest.approx(1, abs=1e-4)
    assert found.gauss_newton_overlap == pytest.approx(1, abs=1e-3)
    assert found.gauss_newton_values == pytest.approx(found.values[:3], rel=1e-3)


@pytest.mark.experiment
@pytest.mark.parametrize("arm", ["init", "sync"])
def test_model_is_trained_and_looked_at_layer_by_layer(noise: None, tmp_path: Path, arm: str) -> None:
    model = measure(Job(network="small", arm=arm, seed=1), tmp_path)
    assert model.steps == (0 if arm == "init" else 2)
    assert [own.layer for own in model.looks] == [0, 1] and not model.looks[0].density_points
    assert all(0.99 < own.gauss_newton_cosine < 1.01 for own in model.looks)
    assert all(0 <= share <= 1.001 for own in model.looks for share in (*own.energies, *own.alignments, own.mean_share))
    frames = torch.load(tmp_path / f"small-{arm}-1.pt", weights_only=True)
    assert [len(own.values) for own in model.looks] == [frame.shape[1] for frame in frames]
    append_record(model, tmp_path / "results.jsonl")
    assert read_models(tmp_path / "results.jsonl") == [model]


def test_every_arm_begins_with_the_weights_of_its_seed(noise: None) -> None:
    first, second, other = (
        layers(list(prepare(rows.config("small", arm, seed=seed)).cut.stages))[0].weight
        for arm, seed in (("bp", 1), ("never", 1), ("bp", 2))
    )
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_models_of_an_arm_are_compared_with_other_seeds_and_those_of_two_arms_also_with_the_same() -> None:
    axes = torch.eye(20)
    one, other = axes[:, :10], axes[:, 5:15]
    frames = {"bp": {0: [one], 1: [other]}, "never": {0: [one], 1: [other]}}
    found = {pair.key[1:]: pair for pair in pairs_of("mlp", frames, [10])}
    assert found["bp", "bp", 0, False].at_rows == [0.5] and found["bp", "bp", 0, False].curve[4] == 0
    assert found["bp", "never", 0, True].at_rows == [1, 1] and found["bp", "never", 0, False].at_classes == [0.5, 0.5]
    assert found.keys() == {
        *(("bp", "bp", 0, False), ("bp", "never", 0, False), ("bp", "never", 0, True), ("never", "never", 0, False)),
    }


def test_outliers_end_at_the_largest_gap_and_overlap_should_peak_where_another_input_direction_comes_in() -> None:
    assert num_outliers(look_of(values=[9.0, 8.0, 7.0, 1.0, 0.9, 0.8])) == 3
    assert num_along_mean(look_of(output_values=[8.0, 5.0, 3.0, 1.0], input_values=[0.6, 0.3])) == 2
    (pair,) = pairs_of("mlp", {"bp": {0: [torch.eye(20)[:, :10]], 1: [torch.eye(20)[:, 5:15]]}}, [10])
    assert peak(replace(pair, curve=[0.1, 0.4, 0.42, 0.3], rows=4, columns=5)) == 2


def test_table_shows_what_was_found_and_what_was_not_run(tmp_path: Path) -> None:
    looks = (look_of(kronecker_overlap=[0.5] * 20),)
    models = [
        Model(
            network="mlp", arm=arm, seed=seed, steps=9, loss=0.5, test_accuracy=0.9, looks=looks,
            train_s=30.0, look_s=30.0, machine=MACHINE,
        )
        for arm in ARMS
        for seed in (0, 1)
    ]  # fmt: skip
    frame = {seed: [torch.eye(20)[:, seed : seed + 10]] for seed in (0, 1)}
    pairs = [replace(pair, machine=MACHINE) for pair in pairs_of("mlp", dict.fromkeys(ARMS, frame), [10])]
    expected = read_expected(FOLDER / "expected.csv")
    parts = table.render(models, pairs, expected)
    assert "| perceptron, MNIST | backprop | 2 | 9 | 0.500 ± 0.000 | 90.0 ± 0.0 |" in parts["models"]
    assert "| mlp 0 | 4 x 5 |" in parts["layers"] and "| 0.90 | 0.5000 |" in parts["layers"]
    assert "| mlp 0 | 10 | 4: 0.75 (1 ± 0)" in parts["peaks"]
    assert "10 models: 5.0 minutes" in parts["cost"] and "not run" in parts["claims"]
    found = measured(models, pairs)
    assert found.keys() == expected.keys() and found["mlp_never_overlap_left"] == [1.0]
    draw(models, pairs, tmp_path)
    assert all((tmp_path / name).stat().st_size > 5_000 for name in PICTURES)


def test_unknown_arm_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Options(arms=("bp", "backprop"))) == 2 and "found backprop" in capsys.readouterr().out


def test_check_finds_a_table_that_was_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("README.md", "expected.csv", "results.jsonl", "pairs.jsonl"):
        shutil.copy(FOLDER / name, tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text(readme.read_text().replace("<!-- cost: begin -->", "<!-- cost: begin -->\nfree"))
    (line,) = check(table, tmp_path, capsys)
    assert "the part 'cost'" in line
