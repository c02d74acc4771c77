"""Do the experiments on understanding run, and are their measures what they are called?"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dni import dissimilarity
from experiments.czarnecki2017_understanding import config, measures, metrics, results, run, surface, table
from experiments.czarnecki2017_understanding.matched import MatchedToLogLoss, SquaredError
from experiments.czarnecki2017_understanding.toys import NUM_SAMPLES, TOYS, toy
from pipeline import Config, prepare, run_simulated

pytestmark = pytest.mark.usefixtures("read_once")
needs_data = pytest.mark.skipif(not os.environ.get("DNI_DATA"), reason="DNI_DATA names no folder with MNIST")
D = torch.float64

TOY_LOSSES = {
    ("linear", "mse", "linear"): [0.886852, 0.886852, 0.825254, 0.768348],
    ("deep", "mse", "linear"): [1.536755, 1.434860, 1.284501, 1.147800],
    ("linear", "log", "matched"): [0.759201, 0.759201, 0.729763, 0.703633],
    ("deep", "log", "bp"): [0.894497, 0.847208, 0.809140, 0.778598],
}
DEEP_LOSSES = {
    "none": [2.343208, 2.339655, 2.293218],
    "middle": [2.343208, 2.334859, 2.356300],
    "every": [2.343208, 2.333814, 2.356691],
}
SLOW_LOSSES = [2.343208, 2.333732, 2.364902]
SMALL_LOSSES = [2.377645, 2.318654, 2.268792]
"""Of the first steps with seed 0."""


def losses_of(config: Config, steps: int) -> list[float]:
    losses: dict[int, float] = {}
    config = replace(config, log_every=1, steps=steps, probe_samples=0)
    run_simulated(prepare(config), on_status=lambda statuses: losses.update({statuses[-1].step: statuses[-1].loss}))
    return [losses[step] for step in range(steps)]


@pytest.mark.experiment
@pytest.mark.parametrize(("depth", "loss", "method"), TOY_LOSSES)
def test_first_losses_of_linear_networks_are_those_written_down(depth: Any, loss: Any, method: Any) -> None:
    job = config.Toy(data="rings", num_dims=100, depth=depth, loss=loss, method=method)
    expected = TOY_LOSSES[depth, loss, method]
    assert losses_of(job.config(), len(expected)) == pytest.approx(expected, rel=1e-4)


@needs_data
@pytest.mark.experiment
@pytest.mark.parametrize("where", DEEP_LOSSES)
def test_first_losses_of_deep_networks_are_those_written_down(where: Any) -> None:
    expected = DEEP_LOSSES[where]
    assert losses_of(config.Deep(where=where).config(), len(expected)) == pytest.approx(expected, rel=1e-4)


@needs_data
@pytest.mark.experiment
def test_first_losses_at_the_slow_pace_are_those_written_down() -> None:
    job = config.Deep(where="every", pace="slow")
    assert losses_of(job.config(), len(SLOW_LOSSES)) == pytest.approx(SLOW_LOSSES, rel=1e-4)


@needs_data
@pytest.mark.experiment
def test_first_losses_on_noisy_digits_are_those_written_down() -> None:
    job = config.Small(num_samples=1_000, noise=0.5, method="linear")
    assert losses_of(job.config(), len(SMALL_LOSSES)) == pytest.approx(SMALL_LOSSES, rel=1e-4)


@pytest.mark.experiment
def test_a_measured_toy_holds_what_the_tables_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "TOY_STEPS", 30)
    lines = [
        run.line_of(config.Toy(data="blobs", num_dims=2, depth="linear", loss="log", method=method))
        for method in ("bp", "matched")
    ]
    runs: dict[str, dict[int, Any]] = {line["row"]: {0: json.loads(json.dumps(line))} for line in lines}
    backprop, ours = (runs[f"toy blobs 2 linear log {method}"][0] for method in ("bp", "matched"))
    assert backprop["first_loss"] == ours["first_loss"] > ours["last_loss"] > backprop["last_loss"]
    row = "toy blobs 2 linear log matched"
    way = backprop["first_loss"] - backprop["last_loss"]
    assert metrics.gap(runs, row) == pytest.approx(100 * (ours["last_loss"] - backprop["last_loss"]) / way)
    apart = torch.tensor(ours["answers"]) - torch.tensor(backprop["answers"])
    assert metrics.distance(runs, row) == pytest.approx(apart.square().mean().sqrt().item(), rel=1e-4)
    assert len(ours["surface"]["true"]) == len(measures.SIDE) and ours["surface"]["true"][6][6] == 0.0
    assert metrics.gap(runs, "toy rings 2 linear log matched") is None


@needs_data
@pytest.mark.experiment
def test_a_measured_deep_network_holds_what_the_tables_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEEP_STEPS", 2)
    monkeypatch.setattr(measures, "_NUM_PROBE", (300, 100))
    monkeypatch.setattr(measures, "_NUM_RSA", 100)
    line = run.line_of(config.Deep(where="middle"))
    assert len(line["probe_accuracy"]) == len(line["contrast"]) == len(line["dissimilarity"]) == config.DEEP_LAYERS
    assert len(line["probes"]) == 1 and "parameter_cosine" in line["probes"][0]
    assert line["probe_accuracy"][0] > 0.4
    json.dumps(line)


def test_toys_are_drawn_by_their_seed_and_a_line_tells_something() -> None:
    for name in TOYS:
        for num_dims in (2, 100):
            x, target = toy(name, num_dims=num_dims, seed=0)
            assert x.shape == (NUM_SAMPLES, num_dims) and set(target.tolist()) == {0, 1}
            again, _ = toy(name, num_dims=num_dims, seed=0)
            other, _ = toy(name, num_dims=num_dims, seed=1)
            assert torch.equal(x, again) and not torch.equal(x, other)


def test_squared_error_is_a_sum_over_samples_with_the_gradient_it_says() -> None:
    y, target = torch.randn(5, 3, dtype=D, requires_grad=True), torch.tensor([0, 2, 1, 1, 0])
    loss = SquaredError()(y, target)
    expected = sum(0.5 * (y[n, k] - float(k == target[n])) ** 2 for n in range(5) for k in range(3))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(y.grad, (y - F.one_hot(target, 3)).detach())


def test_a_matched_synthesizer_can_give_the_exact_gradient_of_a_log_loss_behind_a_linear_map() -> None:
    h, target = torch.randn(6, 4, dtype=D, requires_grad=True), torch.tensor([0, 2, 1, 1, 0, 2])
    head = nn.Linear(4, 3).double()
    (true,) = torch.autograd.grad(F.cross_entropy(head(h), target, reduction="sum"), h)
    synthesizer = MatchedToLogLoss(4, 3).double()
    labels = F.one_hot(target, 3).to(D)
    assert not synthesizer(h, labels).any()
    with torch.no_grad():
        synthesizer.inner.weight.copy_(head.weight)
        synthesizer.inner.bias.copy_(head.bias)
        synthesizer.outer.weight.copy_(head.weight.T)
        synthesizer.labels.weight.copy_(head.weight.T)
    torch.testing.assert_close(synthesizer(h, labels), true)


def test_the_surface_implied_by_an_exact_gradient_is_the_true_one() -> None:
    torch.manual_seed(0)
    h, target = torch.randn(9, 4, dtype=D), torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1])
    weight, side = torch.randn(4, 4, dtype=D), torch.linspace(-2, 2, 5, dtype=D)
    quadratic = weight @ weight.T
    directions = surface.slice_directions(h, target)
    true = surface.true_surface(
        lambda moved: 0.5 * (moved @ quadratic * moved).sum(), h, directions=directions, side=side
    )
    implied = surface.implied_surface(lambda moved: moved @ quadratic, h, directions=directions, side=side)
    torch.testing.assert_close(implied, true)
    assert surface.explained(implied, true) == pytest.approx(1.0)
    a, b = 1, 4
    moved = h + side[a] * directions[0] + side[b] * directions[1]
    by_hand = sum(0.5 * m @ quadratic @ m - 0.5 * n @ quadratic @ n for m, n in zip(moved, h, strict=True)) / 9
    torch.testing.assert_close(true[a, b], by_hand)


def test_directions_of_a_slice_are_orthogonal_and_as_long_as_the_samples_spread() -> None:
    torch.manual_seed(0)
    h = torch.randn(200, 3, dtype=D) * torch.tensor([1.0, 3.0, 0.2], dtype=D)
    target = (torch.arange(200) % 2).long()
    h[:, 0] += 5.0 * target
    first, second = surface.slice_directions(h, target)
    assert abs(float(first @ second)) < 1e-9
    for direction in (first, second):
        assert float(((h - h.mean(0)) @ (direction / direction.norm())).std()) == pytest.approx(float(direction.norm()))
    assert second.abs().argmax() == 1


def test_class_dissimilarity_is_a_mean_over_pairs_of_different_samples() -> None:
    target = torch.tensor([0, 1, 1, 0, 2, 2, 1])
    matrix = dissimilarity(torch.randn(7, 5))
    found = measures.class_dissimilarity(matrix, target, num_classes=3)
    for j in range(3):
        for k in range(3):
            pairs = [
                float(matrix[m, n]) for m in range(7) for n in range(7) if m != n and target[m] == j and target[n] == k
            ]
            assert float(found[j, k]) == pytest.approx(sum(pairs) / len(pairs))


def test_hidden_blocks_are_all_hidden_layers_however_the_network_is_cut() -> None:
    for where in ("none", "middle", "every"):
        stages = config._deep_network(where)  # type: ignore[arg-type]
        assert len(config.hidden_blocks(stages)) == config.DEEP_LAYERS
        assert len(stages) == {"none": 1, "middle": 2, "every": 21}[where]


def test_jobs_done_before_are_skipped_and_unknown_rows_refused() -> None:
    everything = config.all_jobs()
    assert len({(job.name, job.seed) for job in everything}) == len(everything) == 80 + 12 + 24
    assert len(config.all_jobs(full=True)) == 240 + 12 + 24
    left = run.pending_jobs(run.Options(only=("deep",)), {"deep none": {0: {}, 1: {}}})
    assert [(job.name, job.seed) for job in left] == [
        *(("deep middle", 0), ("deep every", 0), ("deep middle", 1), ("deep every", 1)),
        *(("deep none", 2), ("deep middle", 2), ("deep every", 2)),
        *(("deep every slow", seed) for seed in range(3)),
    ]
    with pytest.raises(ValueError, match=r"found 'depe'; the rows are toy slope 2 linear mse bp, "):
        run.pending_jobs(run.Options(only=("depe",)), {})


def test_every_statement_has_a_number_and_none_is_made_up_without_runs() -> None:
    expected = results.read_expected()
    assert set(expected) == set(metrics.METRICS)
    assert all(metrics.value(name, {}) is None for name in expected)


def _made_up() -> dict[str, dict[int, dict[str, Any]]]:
    """Runs in which everything is as the paper says."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for job in config.all_jobs():
        line: dict[str, Any] = {"test_error": 0.02, "train_loss": 0.1, "probes": []}
        if isinstance(job, config.Toy):
            apart = job.loss == "log" and job.method == "linear"
            line |= {"first_loss": 1.0, "last_loss": 0.55 if apart else 0.5, "answers": [0.5, 0.1 + 0.1 * apart]}
            if job.data == "blobs" and job.num_dims == 2 and job.method != "bp":
                share = 0.8 if apart else 1.0
                slice_ = [[0.0, 1.0], [1.0, 2.0]]
                line["surface"] = {"true": slice_, "implied": slice_, "explained": share, "explained_near": 0.95}
        if isinstance(job, config.Deep):
            early = 0.9 if job.where == "none" else 0.97
            shape = [[0.0, 1.0, 0.2], [1.0, 0.0, 0.5], [0.2, 0.5, 0.0]]
            other = [[0.0, 0.1, 0.9], [0.1, 0.0, 0.5], [0.9, 0.5, 0.0]]
            line |= {
                "probe_accuracy": [early] * config.DEEP_LAYERS,
                "contrast": [0.5] * config.DEEP_LAYERS,
                "dissimilarity": [other if job.where == "every" else shape] * config.DEEP_LAYERS,
                "probes": [dict.fromkeys(("parameter_cosine", "cosine", "target_cosine", "norm_ratio"), 0.5)]
                * {"none": 0, "middle": 1, "every": config.DEEP_LAYERS}[job.where],
            }
        if isinstance(job, config.Small):
            line |= {"given_error": 0.1, "right_error": 0.1, "probes": [{"parameter_cosine": 0.5}]}
        runs.setdefault(job.name, {})[job.seed] = line
    return runs


def test_all_statements_hold_where_everything_is_as_the_paper_says() -> None:
    expected, runs = results.read_expected(), _made_up()
    assert {name: row.holds(metrics.value(name, runs) or 0.0) for name, row in expected.items()} == dict.fromkeys(
        expected, True
    )
    parts = table.render(expected, runs)
    assert "does not hold" not in parts["statements"] and "not run" not in "".join(parts.values())
    assert "| 10 hidden, log loss, linear | 10.00 (0.071) |" in parts["toys"]
    written = {name: replace(row, ours=metrics.value(name, runs)) for name, row in expected.items()}
    assert table.failures(written, runs) == []
    moved = written | {"noise_gap": replace(written["noise_gap"], ours=7.0)}
    assert table.failures(moved, runs) == ["noise_gap: 0 lies outside 7 ± 5"]
    gone = table.failures(written, {})
    assert len(gone) == len(expected) and gone[0] == "linear_mse: expected.csv has 0, and no result gives it"


def test_pictures_are_drawn_from_the_results(tmp_path: Path) -> None:
    runs = _made_up()
    for row in runs:
        if "surface" in runs[row].get(0, {}):
            grid = [[float(a + b) for b in range(13)] for a in range(13)]
            runs[row][0]["surface"] |= {"true": grid, "implied": grid}
    assert table.drawable(runs) == ["rsa.png", "probes.png", "signal.png", "surfaces.png"] and table.drawable({}) == []
    table.draw(runs, tmp_path)
    assert all((tmp_path / name).stat().st_size > 1000 for name in table.drawable(runs))
