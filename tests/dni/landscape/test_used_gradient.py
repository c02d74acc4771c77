"""Is the used gradient, at any point, what each stage pulls back from its own source?"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dni.landscape.direction import random_direction
from dni.landscape.network_loss import NetworkLoss
from dni.landscape.slice import Implied, slice_line
from dni.landscape.still_copy import Mode
from dni.landscape.used_gradient import UsedGradient
from dni.members import Members
from dni.sources.exact import LossGradient, TrueGradient
from dni.sources.none import NoGradient
from dni.sources.source import GradientSource, Need, Signal
from dni.sources.synthetic import SyntheticGradient
from tests.dni.landscape.networks import batches, stages, unchanged


def _keyed(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def _synthetic(h: Tensor) -> SyntheticGradient:
    source = SyntheticGradient()
    source.build(h, generator=torch.Generator().manual_seed(5))
    for parameter in source.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(6))
    return source


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_true_gradients_all_the_way_are_backprop_and_imply_the_true_loss(mode: Mode) -> None:
    parts, given = stages(), batches(12, 9)  # few samples to a BatchNorm make a rough loss
    net = nn.Sequential(*parts)
    with unchanged(net):
        true = NetworkLoss(net, given, nn.CrossEntropyLoss(), mode=mode, seed=2)
        used = UsedGradient(
            parts, [TrueGradient(), TrueGradient(), LossGradient(nn.CrossEntropyLoss())], given, mode=mode, seed=2
        )
        direction = random_direction(used.start, _keyed)
        point = {name: value + 0.1 * direction[name] for name, value in used.start.items()}
        found, expected = used(point), true.gradient(point)
    assert found.keys() == expected.keys() == dict(net.named_parameters()).keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)
    losses = {"true": true, "implied": Implied(field=used, num_nodes=10)}
    values = slice_line(losses, used.start, direction, steps=(0.0, 0.02)).values
    change = values["true"] - values["true"][0]
    torch.testing.assert_close(values["implied"], change, rtol=0, atol=1e-8)


class _Noise(nn.Module):
    """A source that draws."""

    needs = learns_from = Need.NONE

    def build(self, h: Members, *, generator: torch.Generator) -> None: ...

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        assert isinstance(h, Tensor)
        return torch.randn_like(h)

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0


def test_source_that_draws_gives_the_same_at_every_point_and_what_it_drew_is_put_back() -> None:
    parts, given = stages(), batches(5)
    used = UsedGradient(parts, [_Noise(), _Noise(), _Noise()], given, mode="train")
    with unchanged(nn.Sequential(*parts)):
        first, second = used(used.start), used(used.start)
    assert all(torch.equal(first[name], second[name]) for name in used.start)


def test_each_stage_pulls_back_its_own_source_and_sources_are_left_alone() -> None:
    parts, given = stages(), batches(5)
    x, target = given[0]
    assert isinstance(x, Tensor)
    frozen = [copy.deepcopy(part).eval() for part in parts]
    leaf = frozen[0](x).detach()
    synthetic, loss = _synthetic(leaf), LossGradient(nn.CrossEntropyLoss())
    sources: list[GradientSource] = [synthetic, NoGradient(), loss]
    used = UsedGradient(parts, sources, given)
    found = used(used.start)
    assert {name[0] for name in found} == {"0", "2"}, "who has none is not named"
    assert loss.latest is None, "a copy was asked"
    estimate = synthetic.estimate(leaf, Signal(step=0))
    assert isinstance(estimate, Tensor) and bool(estimate.any())
    torch.autograd.backward(frozen[0](x), estimate)
    for name, parameter in frozen[0].named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[f"0.{name}"], parameter.grad / 5)
    top = frozen[2](frozen[1](leaf).detach())
    nn.functional.cross_entropy(top, target).backward()  # type: ignore[arg-type]
    torch.testing.assert_close(found["2.weight"], frozen[2].weight.grad)
    with pytest.raises(ValueError, match=r"0 to 2, and a dot, .* got 3.weight, weight"):
        used({"3.weight": torch.ones(1), "weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"got bias \(1,\), where it has \(3,\)"):
        used({"2.bias": torch.ones(1)})
    with pytest.raises(ValueError, match="got 3 stages and 1 sources"):
        UsedGradient(parts, [loss], given)
