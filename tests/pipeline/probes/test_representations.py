"""Is what is said of outputs what the measures say of them?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dni import ClassContrast, LinearCKA, Ranks, RidgeProbes, linear_cka
from pipeline.probes.network import joined
from pipeline.probes.representations import (
    compare_representations,
    outputs,
    probe_representations,
    representations_over_time,
)
from pipeline.probes.settings import ProbeSettings
from pipeline.records.findings import Curves, Matrix, Scalar
from tests.pipeline.probed import network_of, samples_of

SETTINGS = ProbeSettings(batch=48, layers=("1",))


def _told(what: str, done: int, total: int) -> None:
    """Nobody looks."""


def test_measures_of_stages_and_layers_are_those_of_their_outputs() -> None:
    network, samples = network_of("base"), samples_of("base", batch=48)
    x, target = joined(samples)
    assert isinstance(x, Tensor)
    h = torch.tanh(x @ network.learned["0.0.weight"].T + network.learned["0.0.bias"])
    findings = list(probe_representations(network, samples, SETTINGS, _told))
    scalars = {(f.tag, f.stage): f.value for f in findings if isinstance(f, Scalar)}
    for quantity, measure in (("effective_rank", Ranks()), ("probe_accuracy", RidgeProbes(3)), ("c", ClassContrast())):
        measure.update({"h": h}, target)
        result = measure.result()["h"]
        if quantity == "c":
            expected = scalars["representations/class_contrast", 0]
            assert result == pytest.approx(expected)
        else:
            value = result.effective_rank if quantity == "effective_rank" else result.accuracy  # type: ignore[union-attr]
            assert scalars[f"representations/{quantity}", 0] == pytest.approx(value)
            assert scalars[f"representations/{quantity}/1", 0] == pytest.approx(value), "the layer is the stage's last"
    assert scalars["representations/dormant", 0] == 0
    cka = next(f for f in findings if isinstance(f, Matrix) and f.tag == "representations/cka")
    assert list(cka.rows) == ["stage 0", "stage 1", "stage 2", "stage 0: 1"]
    assert cka.values[0][3] == pytest.approx(1)


def test_runs_of_other_widths_are_compared_stage_by_stage() -> None:
    network, reference, samples = network_of("base"), network_of("wider"), samples_of("base", batch=48)
    found = {f.tag: f for f in compare_representations(network, reference, samples, ProbeSettings(), _told)}
    x = samples[0][0]
    measure = LinearCKA()
    measure.update(outputs(network, x), against=outputs(reference, x))
    matrix = found["representations/cka_with_wider"]
    assert isinstance(matrix, Matrix)
    assert torch.equal(torch.tensor(matrix.values, dtype=torch.float64), measure.result().values)
    assert linear_cka(outputs(network, x)["stage 2"], outputs(reference, x)["stage 2"]) > 0


def test_over_time_each_output_is_set_beside_its_last() -> None:
    samples = samples_of("pruned", batch=48)
    networks = [network_of("pruned", step) for step in (4, 8, 12)]
    cka, rsa = representations_over_time(networks[:-1], networks[-1], samples, ProbeSettings(), _told)
    assert isinstance(cka, Curves) and isinstance(rsa, Curves)
    assert list(cka.x) == [4, 8, 12] and list(cka.curves) == ["stage 0", "stage 1", "stage 2"]
    measure = LinearCKA()
    x = samples[0][0]
    measure.update(outputs(networks[0], x), against=outputs(networks[-1], x))
    assert cka.curves["stage 0"][0] == measure.result().of("stage 0", "stage 0"), "its width has changed since"
    assert [curve[-1] for curve in rsa.curves.values()] == [1, 1, 1]
