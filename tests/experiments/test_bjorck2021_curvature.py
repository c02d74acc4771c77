"""Is the curvature that the decay study looks at that of training's loss, whatever the norm of the weights?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments.bjorck2021_decay import config as rows
from experiments.bjorck2021_decay.as_trained import as_trained
from experiments.bjorck2021_decay.bend import LOOKED_AT, Bend, bend
from experiments.bjorck2021_decay.config import INVARIANT, Settings, Split, network
from experiments.bjorck2021_decay.curvature import curvature_jobs, measure_curvature
from experiments.bjorck2021_decay.explained import BENDS, draw_bends, render_bends
from experiments.bjorck2021_decay.run import Job, measure

SHORT = Settings(num_samples=96, batch_size=32, steps=20, measure_every=5, num_points=4, drop_at=0.8)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pictures instead of the data set."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 784, generator=drawn), torch.randint(10, (128,), generator=drawn)
    small = Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)
    for place in ("config", "run", "curvature"):
        monkeypatch.setattr(f"experiments.bjorck2021_decay.{place}.split", lambda data: small)
    assert rows.split("Fashion-MNIST") is small


def small_network() -> tuple[nn.Sequential, Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        (made,) = network(12, 8)
    assert isinstance(made, nn.Sequential)
    return made, torch.randn(60, 12, generator=drawn), torch.randint(10, (60,), generator=drawn)


def bent(module: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, float]:
    return bend(module, torch.optim.SGD(module.parameters(), lr=0.1), x, y, batch_size=20)


def test_copy_has_the_loss_of_training_and_leaves_the_network_alone() -> None:
    module, x, _ = small_network()
    still = as_trained(module.eval())
    assert (
        torch.allclose(still(x), module.train()(x), atol=1e-6)
        and dict(still.named_parameters()).keys() == dict(module.named_parameters()).keys()
    )
    assert bool(module[1].running_mean.any())  # by the forward in training above, and by no other


def test_relative_measures_do_not_feel_the_scale_of_weights_before_a_normalisation_and_plain_ones_do() -> None:
    module, x, y = small_network()
    before = bent(module, x, y)
    with torch.no_grad():
        for name in INVARIANT:
            module.get_parameter(name).mul_(3)
            module.get_parameter(name.replace("weight", "bias")).mul_(3)
    after = bent(module, x, y)
    for name in ("loss", "relative top", "relative trace", "gradient by norm", "sharpness"):
        assert after[name] == pytest.approx(before[name], rel=2e-3)
    assert after["norm"] == pytest.approx(3 * before["norm"], rel=1e-4)
    assert after["trace"] < 0.9 * before["trace"]


def test_rate_along_the_gradient_is_that_of_an_exact_line_search_on_the_quadratic() -> None:
    module, x, y = small_network()
    still, (rest, target) = as_trained(module), (x[20:], y[20:])
    parameters = list(still.parameters())
    gradients = torch.autograd.grad(nn.functional.cross_entropy(still(rest), target), parameters, create_graph=True)
    fixed = [gradient.detach() for gradient in gradients]
    slope = sum((one * other).sum() for one, other in zip(gradients, fixed, strict=True))
    bends = torch.autograd.grad(slope, parameters)
    curved = sum((one * other).sum() for one, other in zip(bends, fixed, strict=True))
    assert bent(module, x, y)["gradient rate"] == pytest.approx((slope / curved).item(), rel=1e-3)


@pytest.mark.experiment
def test_run_is_looked_at_after_each_quarter_and_is_the_run_that_it_was(noise: None) -> None:
    job = Job(optimizer="Adam", rate=0.01, seed=0, window="first 25 %", coupling="decoupled", strength=1.0)
    found = measure_curvature(job, SHORT, num_samples=40)
    assert [own.part for own in found] == [0.25, 0.5, 0.75, 1.0]
    assert {own.test_accuracy for own in found} == {measure(job, SHORT).test_accuracy}
    assert len({own.values["norm"] for own in found}) == 4


def test_runs_that_are_looked_at_are_those_that_count() -> None:
    jobs = curvature_jobs((0, 1))
    assert len(jobs) == 2 * 2 * len(LOOKED_AT) and {job.window for job in jobs} == set(LOOKED_AT)
    assert {job.coupling for job in jobs} == {None, "decoupled"}


def test_table_has_ranks_over_runs_and_says_what_was_not_run(tmp_path: Path) -> None:
    names = ["norm", "top", "trace", "relative top", "relative trace", "gradient by norm", "sharpness", "loss"]
    values = dict.fromkeys([*names, "gradient rate", "step rate", "step rate/0", "step rate/6"], 1.0)
    one = Bend(
        optimizer="SGD", coupling="", window="none", seed=0, part=0.75, test_accuracy=0.4, values=values,
        cpu_s=30.0, machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )  # fmt: skip
    bends = [
        replace(one, window=window, test_accuracy=0.4 + i / 10, values={**one.values, "trace": -i, "norm": i + 1})
        for i, window in enumerate(("none", "all", "first 25 %"))
    ]
    parts = render_bends(bends, [])
    assert "| norm of the weights | +1.00 | not run |" in parts["curvature ranks"]
    assert "| trace | -1.00 |" in parts["curvature ranks"] and "| *runs* | 3 | 0 |" in parts["curvature ranks"]
    assert "| last 50 % | not run |" in parts["curvature"] and "| SGD | all |" in parts["curvature layers"]
    assert "3 runs were made again, 0 of them" in parts["curvature runs"] and "1.5 minutes" in parts["curvature runs"]
    assert render_bends([], [])["curvature runs"] == "not run"
    draw_bends(bends, tmp_path / BENDS)
    assert (tmp_path / BENDS).stat().st_size > 10_000
