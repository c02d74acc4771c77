"""Is what is said of each layer's Hessian true of the Hessian written out?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from dni import rank_one_energy, subspace_overlap
from pipeline.probes.hessian import compare_hessians, probe_hessian
from pipeline.probes.network import Network, Samples, joined
from pipeline.probes.settings import ProbeSettings
from pipeline.records.findings import Curves, Scalar
from tests.pipeline.probed import network_of, samples_of

SETTINGS = ProbeSettings(top=3, draws=24)


def _told(what: str, done: int, total: int) -> None:
    """Nobody looks."""


def _dense(network: Network, samples: Samples, key: str) -> Tensor:
    x, target = joined(samples)

    def loss(flat: Tensor) -> Tensor:
        own = {f"{key}.weight": flat.reshape(network.learned[f"{key}.weight"].shape)}
        return F.cross_entropy(functional_call(network.whole, own, (x,)), target)

    return torch.func.hessian(loss)(network.learned[f"{key}.weight"].reshape(-1)).detach()


def test_eigenvalues_trace_density_and_energy_are_those_of_the_hessian_written_out() -> None:
    network, samples = network_of("base"), samples_of("base", batch=48)
    settings = ProbeSettings(top=3, draws=24, layers=("2",))
    findings = list(probe_hessian(network, samples, settings, _told))
    scalars = {f.tag: f.value for f in findings if isinstance(f, Scalar)}
    curves = {f.tag: f for f in findings if isinstance(f, Curves)}
    values, vectors = torch.linalg.eigh(_dense(network, samples, "1.0"))
    top = values.flip(0)[:3].tolist()
    assert list(curves["hessian/eigenvalues/2"].curves["eigenvalue"]) == pytest.approx(top, rel=1e-3)
    assert scalars["hessian/trace/2"] == pytest.approx(float(values.sum()), abs=4 * scalars["hessian/trace_error/2"])
    energy = rank_one_energy(vectors.flip(1)[:, :3], (5, 6)).mean()
    assert scalars["hessian/rank_one_energy/2"] == pytest.approx(float(energy), rel=1e-2)
    assert scalars["hessian/lowest_eigenvalue/2"] == pytest.approx(float(values[0]), abs=0.02 * top[0])
    density = curves["hessian/density/2"]
    area = torch.trapezoid(torch.tensor(density.curves["density"]), torch.tensor(density.x))
    assert float(area) == pytest.approx(1, abs=0.05)
    assert 0 < scalars["hessian/kronecker_cosine/2"] <= 1
    assert all(finding.stage == 1 for finding in findings)


def test_every_matrix_is_looked_at_unless_layers_are_named() -> None:
    network, samples = network_of("normalised"), samples_of("normalised", batch=48)

    def layers(settings: ProbeSettings) -> list[str]:
        found = probe_hessian(network, samples, settings, _told)
        return [f.tag.rpartition("/")[2] for f in found if f.tag.startswith("hessian/trace/")]

    assert layers(ProbeSettings(top=2, draws=2)) == ["0", "4"]
    assert layers(ProbeSettings(top=2, draws=2, layers=("1",))) == ["1"], "of the norm, without factors"
    with pytest.raises(ValueError, match="2 has no parameters that learn"):
        layers(ProbeSettings(layers=("2",)))


def test_overlap_of_two_runs_is_that_of_their_eigenspaces() -> None:
    network, reference, samples = network_of("base"), network_of("backprop"), samples_of("base", batch=48)
    findings = list(compare_hessians(network, reference, samples, SETTINGS, _told))
    found = {f.tag: f.value for f in findings if isinstance(f, Scalar)}
    frames = [torch.linalg.eigh(_dense(own, samples, "2.0"))[1].flip(1)[:, :3] for own in (network, reference)]
    assert found["hessian/overlap_with_backprop/4"] == pytest.approx(subspace_overlap(*frames), abs=1e-3)


def test_runs_whose_layers_differ_are_refused_by_the_first_one() -> None:
    with pytest.raises(ValueError, match=r"0 has \[\(6, 4\), \(6,\)\] in one run and \[\(7, 4\), \(7,\)\] in the"):
        list(compare_hessians(network_of("base"), network_of("wider"), samples_of("base", batch=48), SETTINGS, _told))
