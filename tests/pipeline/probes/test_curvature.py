"""Are the rates and interactions of a checkpoint those of the loss of all stages, written out?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from pipeline.probes.curvature import probe_curvature, rates_over_time
from pipeline.probes.network import Network, Samples, joined
from pipeline.probes.settings import Direction, ProbeSettings
from pipeline.records.findings import Curves, Finding, Matrix, Scalar
from tests.pipeline.probed import network_of, samples_of


def _found(network: Network, samples: Samples, direction: Direction = "gradient") -> list[Finding]:
    settings = ProbeSettings(direction=direction, batch=20)
    return list(probe_curvature(network, samples, settings, lambda what, done, total: None))


def _scalars(findings: list[Finding]) -> dict[tuple[str, int | None], float]:
    return {(finding.tag, finding.stage): finding.value for finding in findings if isinstance(finding, Scalar)}


def _interactions(findings: list[Finding], kind: str) -> Tensor:
    found = next(f for f in findings if isinstance(f, Matrix) and f.tag == f"curvature/interaction_by_{kind}")
    return torch.tensor(found.values, dtype=torch.float64)


def _twin(network: Network, samples: Samples, u: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """g and H by tensor, from the whole Hessian."""
    x, target = joined(samples)
    names, shapes = list(network.learned), [own.shape for own in network.learned.values()]
    sizes = [shape.numel() for shape in shapes]

    def loss(flat: Tensor) -> Tensor:
        parts = {n: p.reshape(s) for n, p, s in zip(names, flat.split(sizes), shapes, strict=True)}
        return F.cross_entropy(functional_call(network.whole, parts, (x,)), target)

    flat = torch.cat([own.reshape(-1) for own in network.learned.values()])
    gradient, hessian = torch.func.grad(loss)(flat), torch.func.hessian(loss)(flat)
    columns = torch.block_diag(*(u[name].reshape(-1, 1) for name in names))
    return columns.T @ gradient, columns.T @ hessian @ columns


def test_everything_by_tensor_equals_the_whole_hessian_written_out() -> None:
    network, samples = network_of("base"), samples_of("base")
    findings = _found(network, samples)
    scalars = _scalars(findings)
    g, h = _twin(network, samples, network.true_loss(samples).gradient(network.learned))
    newton, size = torch.linalg.solve(h, g), h.diagonal().abs().sqrt()
    torch.testing.assert_close(_interactions(findings, "tensor"), h.abs() / size.outer(size), rtol=1e-9, atol=1e-12)
    for index, key in enumerate(network.learned):
        place = network.name_of(key), network.stage_of(key)
        for quantity, value in (("gradient", g), ("hessian", h.diagonal()), ("diagonal_rate", g / h.diagonal())):
            assert scalars[f"curvature/{quantity}_by_tensor/{place[0]}", place[1]] == pytest.approx(float(value[index]))
        assert scalars[f"curvature/newton_rate_by_tensor/{place[0]}", place[1]] == pytest.approx(float(newton[index]))
    assert scalars["curvature/newton_rate", None] == pytest.approx(float(g.sum() / h.sum()))
    apart = torch.tensor([network.stage_of(key) for key in network.learned])
    between = h.abs()[apart[:, None] != apart[None, :]].sum() / (h.abs().sum() - h.diagonal().abs().sum())
    assert scalars["curvature/coupling_between_stages", None] == pytest.approx(float(between))


def test_coarser_partitions_add_up_the_finer_one() -> None:
    network, samples = network_of("base"), samples_of("base")
    scalars = _scalars(_found(network, samples))
    _, h = _twin(network, samples, network.true_loss(samples).gradient(network.learned))
    for stage in range(3):
        own = h[2 * stage : 2 * stage + 2, 2 * stage : 2 * stage + 2].sum()
        assert scalars["curvature/hessian_by_stage", stage] == pytest.approx(float(own))
        assert scalars[f"curvature/hessian_by_layer/{2 * stage}", stage] == pytest.approx(float(own))


def test_used_direction_is_what_the_stages_learn_from() -> None:
    network, samples = network_of("base"), samples_of("base")
    used = dict(network.used_gradient(samples)(network.learned))
    g, h = _twin(network, samples, used)
    scalars = _scalars(_found(network, samples, "used"))
    assert scalars["curvature/newton_rate", None] == pytest.approx(float(g.sum() / h.sum()))
    true = network.true_loss(samples).gradient(network.learned)
    assert not torch.allclose(used["0.0.weight"], true["0.0.weight"])
    assert torch.allclose(used["2.0.weight"], true["2.0.weight"]), "the last stage's source is the loss"


def test_network_with_batch_norm_and_dropout_is_measured_in_evaluation_mode() -> None:
    network, samples = network_of("normalised"), samples_of("normalised")
    findings = _found(network, samples)
    assert torch.isfinite(_interactions(findings, "tensor")).all()
    assert "curvature/hessian_by_layer/1" in {tag for tag, _ in _scalars(findings)}, "the norm is a layer, too"


def test_rates_over_time_are_one_curve_for_each_subset() -> None:
    samples = samples_of("base")
    findings = [finding for step in (4, 8, 12) for finding in _found(network_of("base", step), samples)]
    curves = {curve.tag: curve for curve in rates_over_time(findings)}
    found = curves["curvature/diagonal_rate_by_stage_over_time"]
    assert isinstance(found, Curves) and list(found.x) == [4, 8, 12]
    assert list(found.curves) == ["stage 0", "stage 1", "stage 2"]
    assert found.curves["stage 1"][-1] == _scalars(findings[-200:])["curvature/diagonal_rate_by_stage", 1]
    assert "stage 1: 2.bias" in curves["curvature/newton_rate_by_tensor_over_time"].curves
    assert list(rates_over_time(_found(network_of("base"), samples))) == [], "of one checkpoint there is no course"
