"""Is what events ask about units measured where the units are read, as it is computed by hand?

Letters: N samples, U units, P positions.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni import Measure, Origin, auxiliary_gradient_of_convolutions
from pipeline.learners.body import Body
from pipeline.learners.naming import Naming
from pipeline.learners.parts import Parts, Remembered
from pipeline.learners.view import View
from pipeline.learners.watch import Watch
from tests.pipeline.learners.bodies import make_body, network

ALL = Measure.ACTIVITY | Measure.TAYLOR | Measure.AUXILIARY | Measure.GRADIENT


def convolutions(*, flat: bool) -> nn.Sequential:
    """Three units, read by a convolution or, behind a flattening, by a Linear."""
    torch.manual_seed(0)
    reader: list[nn.Module] = [nn.Flatten(), nn.Linear(3 * 16, 2)] if flat else [nn.Conv2d(3, 2, 3)]
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), *reader).double()


def _view(module: nn.Module, x: Tensor, watch: Watch) -> View:
    """Of a stage whose layers are called 4, 5, ... in the network."""

    def none(remembered: Remembered) -> Parts:
        return make_body(network()).parts  # of another module: nothing here looks at them

    prefixes = tuple((f"{index}.", f"{index + 4}.") for index in range(len(list(module.children()))))
    body = Body(module, none, naming=Naming(prefixes))
    return View(body, example=x[:2], gradients={}, watch=watch, state={}, known={})


def _watched(module: nn.Module, x: Tensor, layer: str = "4", asked: Measure = ALL) -> tuple[Watch, Tensor]:
    """A watch that has seen one microbatch, with a loss that is curved, pulled back."""
    watch = Watch({layer: asked})
    watch.install(_view(module, x, watch).read)
    with watch.forward():
        y = module(x)
        watch.leaves(y)
    y.sin().sum().backward()
    return watch, y


def _by_hand(
    module: nn.Sequential, x: Tensor, *, split: int, see: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Activity and Taylor scores of h behind the first `split` layers, and dL/dy; `see` gives h as (N, U, P)."""
    h = module[:split](x).detach().requires_grad_()
    y = module[split:](h)
    y.retain_grad()
    y.sin().sum().backward()
    assert h.grad is not None and y.grad is not None
    activity = see(h.detach()).abs().mean(2).mean(0)
    taylor = see(h.detach() * h.grad).mean(2).abs().mean(0)
    return activity, taylor, y.grad


CASES: dict[str, tuple[nn.Sequential, tuple[int, ...], int, Callable[[Tensor], Tensor]]] = {
    "linear": (network().eval(), (5, 4), 3, lambda h: h[:, :, None]),
    "convolution": (convolutions(flat=False), (5, 2, 4, 4), 2, lambda h: h.flatten(2)),
    "flattened": (convolutions(flat=True), (5, 2, 4, 4), 2, lambda h: h.flatten(2)),
    "output of the stage": (network().eval()[:3], (5, 4), 3, lambda h: h[:, :, None]),
    "output of the stage, convolution": (convolutions(flat=False)[:2], (5, 2, 4, 4), 2, lambda h: h.flatten(2)),
}


@pytest.mark.parametrize("name", CASES)
def test_activity_and_taylor_are_those_computed_by_hand_behind_the_nonlinearity(name: str) -> None:
    module, shape, split, see = CASES[name]
    x = torch.randn(shape, dtype=torch.float64)
    watch, _ = _watched(module, x, asked=Measure.ACTIVITY | Measure.TAYLOR)
    activity, taylor, _ = _by_hand(module, x, split=split, see=see)
    torch.testing.assert_close(watch.activity()["4"], activity, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(watch.taylor()["4"], taylor, rtol=1e-12, atol=1e-14)
    assert watch.has("4", Measure.ACTIVITY | Measure.TAYLOR) and watch.auxiliary() == {}


def test_auxiliary_gradient_is_that_of_a_layer_of_zeros_past_the_units() -> None:
    module, x = (
        nn.Sequential(*(layer for layer in network() if not isinstance(layer, nn.BatchNorm1d))),
        torch.randn(5, 4),
    )
    x = x.double()
    watch, _ = _watched(module, x)
    past = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    (module(x) + x @ past.T).sin().sum().backward()
    assert past.grad is not None
    torch.testing.assert_close(watch.auxiliary()["4"], past.grad, rtol=1e-12, atol=1e-14)


def test_auxiliary_gradient_of_convolutions_is_of_what_the_first_reads_and_the_second_puts_out() -> None:
    module, x = convolutions(flat=False), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    watch, _ = _watched(module, x)
    first, second = module[0], module[2]
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    _, _, gradient = _by_hand(module, x, split=2, see=lambda h: h.flatten(2))
    expected = auxiliary_gradient_of_convolutions(x, gradient, producer=first, consumer=second)
    torch.testing.assert_close(watch.auxiliary()["4"], expected, rtol=1e-12, atol=1e-14)


def test_what_runs_outside_of_a_training_forward_is_not_seen_and_layers_not_asked_about_have_everything() -> None:
    module, x = network(), torch.randn(5, 4, dtype=torch.float64)
    watch, _ = _watched(module, x, asked=Measure.ACTIVITY)
    seen = watch.activity()["4"]
    module.eval()(100 * x)
    assert torch.equal(watch.activity()["4"], seen)
    assert watch.has("7", ALL) and not watch.has("4", Measure.TAYLOR) and watch.taylor() == {}
    assert not Watch({"4": Measure.GRADIENT}).is_needed, "gradients are the updater's business"


def test_hooks_are_installed_once_however_often_the_structure_changes() -> None:
    module, x = network(), torch.randn(5, 4, dtype=torch.float64)
    watch = Watch({"4": ALL})
    for _ in range(3):
        watch.install(_view(module, x, watch).read)
    hooks = [len(each._forward_pre_hooks) + len(each._forward_hooks) for each in module]
    assert hooks == [1, 0, 0, 2]


def test_what_was_measured_of_units_that_stay_is_still_theirs_and_a_gradient_from_before_is_nobodys() -> None:
    module, x = convolutions(flat=True), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    watch, _ = _watched(module, x, asked=Measure.ACTIVITY | Measure.TAYLOR)
    activity, taylor = watch.activity()["4"], watch.taylor()["4"]
    with watch.forward():
        late = module(2 * x)
    doubled = watch.activity()["4"]
    assert not torch.allclose(doubled, activity)
    watch.change("4", Origin.keep((0, 2), num_old=3).then(Origin.append(1, num_old=2)))
    expected = torch.cat([doubled[[0, 2]], torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(watch.activity()["4"], expected, rtol=1e-12, atol=0)
    late.sum().backward()
    assert torch.equal(watch.taylor()["4"][:2], taylor[[0, 2]]) and not watch.taylor()["4"][2]
