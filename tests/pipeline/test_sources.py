"""Is a source in a run what it is alone: the ends of a mixture, a shrunk gradient, a local loss that moves no bytes?"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import (
    ConditionalSyntheticGradient,
    Every,
    GradientSource,
    LocalLoss,
    MixedGradient,
    Need,
    Never,
    NoGradient,
    ShrunkGradient,
    TrueGradient,
    VirtualGradient,
    convert_to_feedback_alignment,
)
from pipeline import prepare, run_simulated, train
from pipeline.configuration.methods import decoupled
from pipeline.executors.distributed import run_rank
from pipeline.transports.control import Control, World
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

PROBLEM = Problem(num_stages=4, optimizer="adam", steps=12)
LONGER = replace(PROBLEM, steps=120)
ONE_AT_A_TIME: dict[str, Any] = {"delay": (1,)}


def _weights(source: GradientSource, **settings: Any) -> dict[str, Tensor]:
    return run_simulated(prepare(PROBLEM.config(source, **settings))).export()


def _conditional() -> ConditionalSyntheticGradient:
    return ConditionalSyntheticGradient(num_classes=10)


@pytest.mark.parametrize(
    ("source", "same"),
    [
        (MixedGradient(_conditional(), 1.0), TrueGradient()),
        (MixedGradient(_conditional(), 0.0), _conditional()),
        (ShrunkGradient(1.0), TrueGradient()),
    ],
    ids=["share 1", "share 0", "beta 1"],
)
def test_ends_of_a_source_are_other_sources_bit_for_bit(source: GradientSource, same: GradientSource) -> None:
    assert_bit_equal(_weights(source, **ONE_AT_A_TIME), _weights(same, **ONE_AT_A_TIME))


def test_mixture_in_between_is_neither() -> None:
    found = _weights(MixedGradient(_conditional(), 0.5), **ONE_AT_A_TIME)
    for end in (TrueGradient(), _conditional()):
        assert not torch.equal(found["0.0.weight"], _weights(end, **ONE_AT_A_TIME)["0.0.weight"])


def test_shrinking_compounds_from_stage_to_stage() -> None:
    """One step of plain SGD moves the parameters of stage i by β^(3 - i) of what backprop does."""
    problem = replace(PROBLEM, steps=1, batch_norm=False, optimizer="sgd")

    def moves(source: GradientSource) -> dict[str, Tensor]:
        prepared = prepare(problem.config(source, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)))
        before = {name: value.clone() for i in range(4) for name, value in _named(prepared, i).items()}
        after = run_simulated(prepared).export()
        return {name: after[name] - value for name, value in before.items()}

    true, shrunk = moves(TrueGradient()), moves(ShrunkGradient(0.5))
    for block, depth in (("0", 3), ("1", 2), ("2", 1), ("4", 0)):
        name = f"{block}.0.weight"
        torch.testing.assert_close(shrunk[name], 0.5**depth * true[name], rtol=1e-3, atol=1e-6)


def _named(prepared: Any, index: int) -> dict[str, Tensor]:
    names, state = prepared.cut.names(index), prepared.cut.stages[index].state_dict()
    return {full: state[local] for local, full in names.items()}


@cache
def _untrained_loss() -> float:
    """Of the network whose last stage alone learns."""
    loss: float = run_simulated(prepare(decoupled(LONGER.config(NoGradient())))).summary["train_loss"]
    return loss


@pytest.mark.parametrize(
    "source", [LocalLoss(), LocalLoss(similarity_weight=0.99), VirtualGradient()], ids=["local", "predsim", "virtual"]
)
def test_lower_stages_learn_without_a_true_gradient(source: GradientSource) -> None:
    summary = run_simulated(prepare(decoupled(LONGER.config(source)))).summary
    assert summary["train_loss"] < 0.5 * _untrained_loss()
    assert [stage["updates"] for stage in summary["stages"]] == [120] * 4


@pytest.mark.parametrize("stash", ["hold", "recompute", "weights"])
def test_network_converted_to_feedback_alignment_learns_in_stages_what_it_learns_whole(stash: Any) -> None:
    x, target = next(iter(PROBLEM.batches().start(0)))
    assert isinstance(x, Tensor) and isinstance(target, Tensor)
    whole = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 10))
    convert_to_feedback_alignment(whole, generator=torch.Generator().manual_seed(1), mode="sign")
    twin = copy.deepcopy(whole)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(twin(x), target).backward()
        optimizer.step()
    train(
        [whole[:2], whole[2:4], whole[4:]],
        [(x, target)],
        loss=nn.CrossEntropyLoss(),
        source=TrueGradient(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        steps=3,
        stash=stash,
        delay=(1,),
    )
    torch.testing.assert_close(dict(whole.state_dict()), dict(twin.state_dict()))


def test_boundary_says_whether_it_wants_gradients_and_when_its_source_learns() -> None:
    sources = (LocalLoss(), MixedGradient(LocalLoss()), _conditional())
    prepared = prepare(PROBLEM.config(source=sources))  # type: ignore[arg-type]
    assert prepared.wants == [False, True, True]
    assert [bool(awaited.to_learn) for awaited in prepared.awaited] == [False, False, True, False]
    assert [awaited.learns_alone for awaited in prepared.awaited] == [True, True, False, False]
    assert all(source.learns_from is not Need.NONE for source in sources)


def run_and_weigh(world: World, source: GradientSource, sync: Any) -> tuple[dict[str, int], float]:
    """On one of two ranks: the bytes of each edge between them, and the training loss."""
    config = Problem(num_stages=2, steps=12).config(source, executor="distributed", sync=sync)
    summary = run_rank(prepare(config, num_ranks=world.world_size), Control(world), folder=None)
    return {f"{e['sender']}-{e['receiver']}": e["num_bytes"] for e in summary["edges"]}, summary["train_loss"]


@pytest.mark.distributed
def test_gradients_that_nobody_wants_move_no_bytes(ranks: Ranks) -> None:
    """Down the boundary: a header for each microbatch, and at each sync also a gradient; up it nothing changes."""
    told = {
        name: ranks.run(run_and_weigh, source, sync, world_size=2)[0]
        for name, source, sync in (
            ("wanted", _conditional(), Never()),
            ("local", LocalLoss(), Never()),
            ("local with syncs", LocalLoss(), Every(4)),
        )
    }
    up, down = ({name: edges[way] for name, (edges, _) in told.items()} for way in ("0-1", "1-0"))
    assert len(set(up.values())) == 1
    assert 64 * 12 <= down["local"] <= 64 * 16, "headers of 12 credits and of what ends the run"
    one_gradient = (down["wanted"] - down["local"]) / 12
    assert one_gradient > 96 * 24 * 4 * 0.9
    assert down["local with syncs"] - down["local"] == pytest.approx(3 * one_gradient, rel=0.25)
