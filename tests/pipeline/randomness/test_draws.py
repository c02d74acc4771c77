"""Are stages that draw from the process-wide generators found, and do threads that draw repeat a run all the same?"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dni import Always, ConditionalSyntheticGradient, GradientSource, LossGradient, Members, Signal, SyntheticGradient
from pipeline import Config, StageFailure, prepare, run_simulated, run_threaded
from pipeline.randomness import keyed
from pipeline.randomness.draws import DrawWatch, module_phases, source_phases
from pipeline.randomness.turns import Turns
from tests.reference import Problem, assert_bit_equal

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Checkpointed(nn.Module):
    """Forgets what is inside it, and runs it again in the backward."""

    def __init__(self, inside: nn.Module, *, reentrant: bool = False) -> None:
        super().__init__()
        self.inside, self.reentrant = inside, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inside, x, use_reentrant=self.reentrant)


class Forking(nn.Module):
    """Draws always the same, and puts the generator back."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return x + torch.rand(())


class Noise(nn.Module):
    """Adds noise in training, from step `since` on; with a generator of its own if it is to."""

    def __init__(self, since: int = 0, *, own: bool = False, draws: bool = False) -> None:
        super().__init__()
        self.since, self.count = since, 0
        self.generator = torch.Generator() if own else None
        self.draws = draws

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
            if self.count > self.since:
                return x + 0.1 * torch.rand((), generator=self.generator)
        return x


FORWARD = ("forward", "evaluation")
MODULES: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
    "linear": (nn.Linear(4, 4), ()),
    "dropout": (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), FORWARD),
    "dropout of nothing": (nn.Dropout(0.0), ()),
    "dropout that the batch did not show": (nn.Dropout(0.1).eval(), FORWARD),
    "LSTM with dropout": (nn.LSTM(4, 4, num_layers=2, dropout=0.1).eval(), FORWARD),
    "noise": (Noise(), FORWARD),
    "noise of its own": (Noise(own=True), ()),
    "noise that comes later, and says so": (Noise(since=9, draws=True), (*FORWARD, "backward", "update")),
    "forking": (Forking(), (*FORWARD, "backward")),
    "checkpointed": (Checkpointed(nn.Linear(4, 4)), ("backward",)),
    "checkpointed, reentrant": (Checkpointed(nn.Linear(4, 4), reentrant=True), ("backward",)),
    "checkpointed dropout": (Checkpointed(nn.Dropout(0.5)), (*FORWARD, "backward")),
}


@pytest.mark.parametrize("name", MODULES)
def test_phases_in_which_a_module_draws_are_found(name: str) -> None:
    module, expected = MODULES[name]
    with DrawWatch() as watch:
        module(X.clone().requires_grad_())
    assert module_phases(module, watch) == expected


def test_watch_gives_back_what_it_counts_the_calls_of() -> None:
    before = torch.get_rng_state, torch.random.set_rng_state, torch.manual_seed
    with pytest.raises(ZeroDivisionError), DrawWatch() as watch:
        len(torch.random.get_rng_state()) / 0
    assert (torch.get_rng_state, torch.random.set_rng_state, torch.manual_seed) == before
    assert watch.looked and not watch.drew


class NoisySource(SyntheticGradient):
    """Draws when it is asked."""

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        assert isinstance(h, Tensor)
        return 0.1 * torch.randn_like(h)


class NoisyLoss(nn.Module):
    """Adds noise to the output."""

    reduction = "sum"

    def forward(self, h: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(h + 0.1 * torch.randn_like(h), target, reduction="sum")


def test_phases_in_which_a_source_draws_are_found() -> None:
    drew, calm = DrawWatch(), DrawWatch()
    with drew:
        torch.rand(())
    with calm:
        pass
    assert source_phases(object(), estimate=drew, learn=calm) == ("estimate",)
    assert source_phases(object(), estimate=calm, learn=drew) == ("learn",)
    assert source_phases(SyntheticGradient(), estimate=calm, learn=calm) == ()
    assert source_phases(LossGradient(nn.CrossEntropyLoss()), estimate=calm, learn=calm) == ()


PROBLEM = Problem(num_stages=3, batch_norm=False, steps=16)


def _config(*inserted: nn.Module, source: GradientSource | None = None, **more: Any) -> Config:
    """Three stages of which two draw in any case; what is inserted stands in the middle one."""

    def model() -> list[nn.Module]:
        blocks = list(PROBLEM.model())
        return [
            nn.Sequential(blocks[0], nn.Dropout(0.2)),
            nn.Sequential(blocks[1], *inserted, blocks[2]),
            nn.Sequential(blocks[3], nn.Dropout(0.2), blocks[4]),
        ]

    settings: dict[str, Any] = {"model": model, "check_every": 5, "delay": (3,), **more}
    return PROBLEM.config(source or ConditionalSyntheticGradient(num_classes=10), **settings)


def _outline(config: Config) -> tuple[tuple[str, ...], ...]:
    return prepare(config).outline.draws


CASES: dict[str, dict[str, Any]] = {
    "dropout": {"inserted": nn.Dropout(0.3)},
    "checkpointed dropout": {"inserted": Checkpointed(nn.Dropout(0.3))},
    "forking": {"inserted": Forking()},
    "noise that comes later, and says so": {"inserted": Noise(since=9, draws=True)},
    "noise of its own": {"inserted": Noise(own=True)},
    "dropout that comes back from the stash": {"inserted": nn.Dropout(0.3), "stash": "recompute", "source": "true"},
    "source that draws": {"source": NoisySource()},
    "loss that draws": {"loss": NoisyLoss()},
}


@pytest.mark.parametrize("case", CASES)
def test_stages_that_draw_at_the_same_time_draw_what_they_draw_alone(case: str) -> None:
    settings = dict(CASES[case])
    inserted = settings.pop("inserted", nn.Identity())
    if settings.get("source") == "true":
        settings["source"] = None
        settings["sync"] = Always()
    first = run_simulated(prepare(_config(copy.deepcopy(inserted), **settings)))
    for _ in range(3):
        again = run_threaded(prepare(_config(copy.deepcopy(inserted), **settings)))
        assert_bit_equal(again.export(), first.export())


def test_plan_says_which_stages_draw() -> None:
    assert _outline(_config()) == (FORWARD, (), FORWARD)
    assert _outline(_config(nn.Dropout(0.3), source=NoisySource())) == (
        (*FORWARD, "estimate"),
        (*FORWARD, "estimate"),
        FORWARD,
    )
    assert _outline(_config(loss=NoisyLoss()))[2] == (*FORWARD, "estimate")


@pytest.mark.parametrize("since", [1, 5, 9])
def test_stage_that_draws_later_on_is_named(since: int) -> None:
    """Everything is checked every 5 steps; what draws while others run is then watched until it does so again."""
    with pytest.raises(StageFailure, match="drew from PyTorch's process-wide generator in forward") as caught:
        run_threaded(prepare(_config(Noise(since=since))))
    assert caught.value.stage == 1 and caught.value.phase == "forward" and caught.value.step >= since
    for cure in ("`draws = True`", "torch.Generator of its own", "simulate or distributed"):
        assert cure in str(caught.value)


def test_run_that_ends_before_it_is_known_who_drew_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turns, "watched", _suspecting)
    with pytest.warns(UserWarning, match="drew from PyTorch's process-wide generator out of turn"):
        run_threaded(prepare(_config()))


@contextmanager
def _suspecting(turns: Turns, *arguments: object, **named: object) -> Iterator[None]:
    turns.suspicious = True
    yield


class NoisySgd(torch.optim.SGD):
    """Langevin dynamics: noise in every step."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, lr=0.01)

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                with torch.no_grad():
                    parameter.add_(torch.randn_like(parameter), alpha=1e-3)


def test_optimizer_that_draws_is_refused_at_once() -> None:
    with pytest.raises(StageFailure, match="drew from PyTorch's process-wide generator in update") as caught:
        run_threaded(prepare(_config(optimizer=NoisySgd)))
    assert caught.value.step <= 1


def test_optimizer_that_draws_takes_turns_if_the_module_says_so() -> None:
    settings = {"optimizer": NoisySgd, "model": lambda: [_declared(block) for block in PROBLEM.model()]}
    first = run_simulated(prepare(_config(**settings))).export()
    for _ in range(3):
        assert_bit_equal(run_threaded(prepare(_config(**settings))).export(), first)


def _declared(module: nn.Module) -> nn.Module:
    module.draws = True  # type: ignore[assignment]
    return module


def test_stages_that_do_not_draw_are_let_through_without_seeding(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[str] = []
    start = keyed.seeded
    monkeypatch.setattr(
        keyed, "seeded", lambda seed, name, step, device: seeded.append(name) or start(seed, name, step, device=device)
    )
    run_threaded(prepare(PROBLEM.config(ConditionalSyntheticGradient(num_classes=10))))
    builds = ["build/0", "build/1", "build/2"]
    assert sorted(seeded) == builds, "once each"
    run_threaded(prepare(_config()))
    assert set(seeded) - set(builds) == {"forward/0", "forward/2"}
