"""Are lines and planes those of the loss at moved weights?"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from pipeline.probes.landscape import probe_landscape
from pipeline.probes.network import joined
from pipeline.probes.settings import ProbeSettings
from pipeline.records.findings import Curves, Finding, Surface
from tests.pipeline.probed import network_of, samples_of


def _found(name: str) -> dict[str, Finding]:
    settings = ProbeSettings(points=5, reach=0.2)
    found = probe_landscape(network_of(name), samples_of(name), settings, lambda what, done, total: None)
    return {finding.tag: finding for finding in found}


def test_line_along_a_gradient_is_the_loss_at_weights_moved_downhill_by_a_share_of_their_norm() -> None:
    network, samples = network_of("base"), samples_of("base")
    x, target = joined(samples)
    assert isinstance(x, Tensor)
    gradient = network.true_loss(samples).gradient(network.learned)
    size, length = (
        math.sqrt(sum(float(own.square().sum()) for own in each.values())) for each in (network.learned, gradient)
    )
    line = _found("base")["landscape/along_true"]
    assert isinstance(line, Curves) and list(line.x) == pytest.approx([-20, -10, 0, 10, 20])
    for percent, value in zip(line.x, line.curves["true loss"], strict=True):
        moved = {key: own - percent / 100 * size / length * gradient[key] for key, own in network.learned.items()}
        assert value == pytest.approx(float(F.cross_entropy(functional_call(network.whole, moved, (x,)), target)))


def test_of_backprop_the_used_gradient_implies_the_true_loss() -> None:
    found = _found("backprop")
    for tag in ("landscape/along_used", "landscape/along_true", "landscape/along_random"):
        line = found[tag]
        assert isinstance(line, Curves)
        assert list(line.curves["implied by the used gradient"]) == pytest.approx(
            list(line.curves["true loss"]), rel=1e-3
        )
    plane = found["landscape/plane"]
    assert isinstance(plane, Surface) and "a random direction" in plane.y_label


def test_plane_goes_through_both_gradients_where_they_differ() -> None:
    found = _found("base")
    plane, line = found["landscape/plane"], found["landscape/along_used"]
    assert isinstance(plane, Surface) and isinstance(line, Curves)
    assert "true gradient" in plane.y_label and "used gradient" in plane.x_label
    assert list(plane.values[1]) == pytest.approx([line.curves["true loss"][index] for index in (0, 2, 4)])
    assert torch.isfinite(torch.tensor(plane.values)).all()
