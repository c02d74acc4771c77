"""Is every event timed in the stages that it concerns, and does the table say what was recorded?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.spans import Span
from experiments.structure_cost import masks, runs, speed, table
from experiments.structure_cost.kinds import FIRST, SPACING, events, kind_at, kinds, last_step
from experiments.structure_cost.masks import Contender
from experiments.structure_cost.networks import NETWORKS
from tests.experiments.checks import check

_WHERE = {"date": "2026-01-01", "processor": "x", "cores": 2, "python": "3", "torch": "2", "commit": None}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_have_ten_million_parameters_and_the_layers_that_events_are_about(name: str) -> None:
    network = NETWORKS[name]
    module = network.make()
    assert 9.8e6 < sum(parameter.numel() for parameter in module.parameters()) < 10.2e6
    assert {network.within, network.boundary, *network.stage} <= {each for each, _ in module.named_modules()}
    assert [each for each, layer in module.named_children() if isinstance(layer, nn.Linear | nn.Conv2d)][:-1] == list(
        network.hidden
    )
    own = kinds(network)
    assert len(events(own)) == len(own) and last_step(own) == FIRST + SPACING * (len(own) - 1)
    assert [kind_at(FIRST + SPACING * place + late, own) for place in range(len(own)) for late in (0, 1)] == [
        kind for kind in own for _ in (0, 1)
    ]


@pytest.mark.experiment
def test_each_event_is_timed_and_nobody_loses_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(NETWORKS["MLP"], make=lambda: _small(16))
    monkeypatch.setitem(runs.NETWORKS, "MLP", small)
    units = {kind for kind, action in kinds(small).items() if action.layers == (small.within,)} | {"attach a component"}
    took = runs.events_ms("MLP", "SGD, momentum", batch_size=4)
    assert [kind["kind"] for kind in took] == list(kinds(small))
    for kind in took:
        concerned = ["2", "3"] if "boundary" in kind["kind"] else ["3"] if kind["kind"] in units else ["2"]
        assert list(kind["stages_ms"]) == concerned
    assert runs.standing_still("MLP", batch_size=4)["steps_lost"] == 0
    assert runs.halved("MLP", "Adam", batch_size=4, steps=1)["faster"] > 0


@pytest.mark.experiment
def test_masks_are_timed_beside_the_same_network_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(masks.MASKED, "MLP, 3 x 1024", lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)))
    assert masks.masked("MLP, 3 x 1024", "Adam, fused", batch_size=4, turns=2)["ratio"] > 0
    contender = Contender("MLP, 3 x 1024", "Adam", sparsity=0.9, batch_size=4)
    contender.step(0)
    weight = contender.module[1].weight
    assert isinstance(weight, torch.Tensor) and 0.88 < float((weight == 0).float().mean()) < 0.92


def test_a_gap_counts_if_it_overlaps_the_time_asked_for() -> None:
    spans = [Span("F", 0, 0.0, 1.0), Span("B", 0, 1.5, 2.0), Span("F", 1, 4.0, 5.0), Span("B", 1, 5.1, 6.0)]
    assert runs.longest_gap_ms(spans, 1.2, 1.9) == pytest.approx(500.0)
    assert runs.longest_gap_ms(spans, 1.6, 3.0) == pytest.approx(2000.0)
    assert runs.longest_gap_ms(spans, 4.2, 4.9) == 0.0
    assert runs.longest_gap_ms(spans, 5.5, 7.0) is None


def test_check_names_what_misses_its_aim(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = {"run": "1", "network": "MLP", "optimizer": "Adam", "batch_size": 64, "machine": _WHERE}
    gaps = {"window_ms": 50.0, "median_gap_ms": 1.0, "largest_gap_ms": 100.0, "median_gap_without_ms": 1.0}
    lines = [
        about | {"question": "events", "kinds": [{"kind": "grow", "stages_ms": {"2": 90.0, "3": 210.0}}]},
        about | {"question": "others", "events": 3, **gaps, "largest_gap_without_ms": 70.0, "steps_lost": 1},
        about | {"question": "halved", "before_ms": 3.0, "after_ms": 2.0, "faster": 1.5},
        about | {"question": "masks", "dense_ms": 10.0, "masked_ms": 11.0, "ratio": 1.1},
        about | {"question": "masks", "dense_ms": 10.0, "masked_ms": 11.0, "ratio": 1.1, "optimizer": "Adam, fused"},
    ]
    (tmp_path / "README.md").write_text((table.HERE / "README.md").read_text())
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert table.main(folder=tmp_path) == 0
    text = (tmp_path / "README.md").read_text()
    assert "| grow | 90 + 210 |" in text and "| MLP | Adam | 64 | 3.0 | 2.0 | 1.50 |" in text
    assert check(table, tmp_path, capsys) == [
        "MLP, Adam, 64 samples: grow takes stage 3 210 ms, aim < 200",
        "MLP, Adam, 64 samples: half the units make a step 1.50 times as fast, aim 1.7",
        "MLP, Adam, fused, 64 samples: masks make a step 1.100 times as long, aim 1.05",
        "MLP, Adam, 64 samples: another stage stands still for 100 ms during an event",
        "MLP, Adam, 64 samples: 1 steps are lost",
    ]


def test_progress_knows_how_many_lines_there_will_be() -> None:
    assert speed._num_lines(speed.Options()) == 2 * 2 * 2 + 2 + 2 * 3 * 2
    assert speed._num_lines(speed.Options(only=("others",), networks=("MLP",))) == 1


def _small(width: int) -> nn.Sequential:
    layers = [layer for _ in range(7) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), *layers, nn.Linear(width, 10))
