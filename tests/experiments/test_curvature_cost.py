"""Do the schemes that are compared compute the same, and does the table say what was recorded?"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.curvature_cost import measure, table
from experiments.curvature_cost.cases import COMPARED, FULL, Case
from experiments.curvature_cost.networks import NETWORKS, initialised
from experiments.curvature_cost.schemes import SCHEMES, Problem
from tests.experiments.checks import check


@pytest.mark.parametrize("name", ["lenet", "resnet"])
def test_all_schemes_agree_in_float64_and_by_parts(name: str) -> None:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, 32, 32, generator=drawn).double()
    target = torch.randint(10, (3,), generator=drawn)
    problem = Problem.along_the_gradient(initialised(NETWORKS[name]).double(), x, target)
    first, *others = (scheme(problem, 2) for scheme in SCHEMES.values())
    for other in (*others, SCHEMES["fast"](problem, None)):
        assert measure.difference(other, first) < 1e-9


def test_networks_have_the_papers_number_of_subsets() -> None:
    found = {name: len(list(network.make().parameters())) for name, network in NETWORKS.items()}
    assert found == {"lenet": 10, "vgg": 18, "mlp": 42, "resnet": 18}


@pytest.mark.experiment
def test_a_case_gives_a_line_for_each_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.Generator().manual_seed(0)
    noise = SimpleNamespace(train_x=torch.randn(4, 3, 32, 32, generator=drawn), train_y=torch.arange(4))
    monkeypatch.setattr(measure, "cifar10_subset", lambda layout: noise)
    lines = measure.timed(Case(network="lenet", num_samples=4, samples_at_once=3), rounds=2)
    assert [line["scheme"] for line in lines] == ["paper", "reference", "fast"]
    assert all(len(line["passes"]) == 2 and min(line["passes"]) > 0 for line in lines)
    assert max(line["difference"] for line in lines) < 1e-3
    assert json.loads(json.dumps(lines)) == lines
    assert measure.peak_gib(COMPARED[0], None) > 0


def test_check_names_targets_that_are_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    markers = (f"<!-- {name}: {end} -->\n" for name in ("time", "memory", "machine") for end in ("begin", "end"))
    (tmp_path / "README.md").write_text("".join(markers))
    where = {"date": "2026-01-01", "processor": "x", "cores": 2, "python": "3", "torch": "2", "commit": None}
    case = {"num_samples": 1000, "samples_at_once": None, "network": "lenet", "machine": where}
    time = case | {"kind": "time", "num_subsets": 10, "plain_s": 0.2, "difference": 1e-6}
    lines = [
        time | {"scheme": "paper", "passes": [9.0, 10.0, 11.0]},
        time | {"scheme": "fast", "passes": [8.0], "difference": 2e-3},
        case | {"kind": "memory", "scheme": "fast", "peak_gib": 9.5},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert table.main(folder=tmp_path) == 0
    text = (tmp_path / "README.md").read_text()
    assert "| 10.0 (9.0 to 11.0; 3) | not run | 8.0 (8.0 to 8.0; 1) | 1.25 | 0.200 | 2e-03 |" in text
    assert text.count("not run |") > len(FULL)
    assert check(table, tmp_path, capsys) == [
        "LeNet, tanh, 1000 samples, None at once: 8.0 plain passes, at most 6 are aimed at",
        "LeNet, tanh, 1000 samples, None at once: 1.25 times cheaper than the paper's scheme, at least 1.5 is aimed at",
        "LeNet, tanh, 1000 samples, None at once: fast differs by 2.0e-03, at most 0.001 is aimed at",
        "lenet, fast: 9.5 GiB, at most 8.0 are aimed at",
    ]
