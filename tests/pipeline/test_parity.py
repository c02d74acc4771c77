"""Is a run with the true gradient the same as plain PyTorch, bit for bit, in every executor?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from dni import Always, ConditionalSyntheticGradient, Constant, Steps
from pipeline import Adam, Sgd, prepare, run_simulated
from pipeline.control import Control, World
from pipeline.distributed import run_rank
from pipeline.placement import place
from tests.reference import Problem, assert_bit_equal, initial_model, mean_loss_loop, state, summed_loss_loop
from tests.spawn import Ranks

PROBLEMS = {
    "plain, 5 stages": Problem(num_stages=5, batch_norm=False),
    "BatchNorm, 4 stages, short last batch": Problem(num_stages=4),
    "BatchNorm and dropout, 3 stages, Adam": Problem(num_stages=3, dropout=0.3, optimizer="adam"),
    "dropout, 2 stages, N = 256": Problem(num_stages=2, batch_norm=False, dropout=0.2, batch_size=256, steps=8),
    "one stage, Adam, N = 256": Problem(num_stages=1, optimizer="adam", batch_size=256, steps=8),
}
WAYS = {
    "from above": {},
    "from above, always ready": {"arrival": "ready", "max_in_flight": (3,)},
    "at sync steps": {"source": ConditionalSyntheticGradient(num_classes=10), "sync": Always()},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_simulated_run_equals_the_summed_loss_loop(name: str, way: str) -> None:
    problem = PROBLEMS[name]
    result = run_simulated(prepare(problem.config(**WAYS[way])))
    assert_bit_equal(result.export(), summed_loss_loop(problem))


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_simulated_run_equals_the_mean_loss_loop_when_n_is_a_power_of_two(num_stages: int, optimizer: str) -> None:
    problem = Problem(num_stages=num_stages, optimizer=optimizer, batch_size=256, drop_last=True, steps=7)
    result = run_simulated(prepare(problem.config()))
    assert_bit_equal(result.export(), mean_loss_loop(problem))


@pytest.mark.parametrize("bound", [1, 4])
def test_accumulation_over_a_cadence_equals_the_loop_that_accumulates(bound: int) -> None:
    problem = Problem(num_stages=4, batch_norm=False, steps=22)
    config = problem.config(cadence=(4,), arrival="fixed", delay=(bound,))
    result = run_simulated(prepare(config))
    assert_bit_equal(result.export(), summed_loss_loop(problem, cadence=4))


def test_each_stage_may_have_an_optimizer_and_a_schedule_of_its_own() -> None:
    problem = Problem(num_stages=2)
    config = problem.config(optimizer=(Sgd(lr=0.05), Adam(lr=3e-3)), schedule=(Steps(at=(7,)), Constant()))
    model = initial_model(problem).train()
    lower, upper = (list(stage.parameters()) for stage in problem.cut(model).stages)
    optimizers = torch.optim.SGD(lower, lr=0.05), torch.optim.Adam(upper, lr=3e-3)
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        optimizers[0].param_groups[0]["lr"] = 0.05 * (0.1 if step >= 7 else 1.0)
        nn.CrossEntropyLoss(reduction="sum")(model(x), target).backward()
        for parameter in model.parameters():
            parameter.grad.div_(len(x))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert_bit_equal(run_simulated(prepare(config)).export(), state(model))


def test_a_wrong_gradient_would_be_noticed() -> None:
    problem = PROBLEMS["plain, 5 stages"]
    result = run_simulated(prepare(problem.config(ConditionalSyntheticGradient(num_classes=10))))
    with pytest.raises(AssertionError):
        assert_bit_equal(result.export(), summed_loss_loop(problem))


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_distributed_run_equals_the_summed_loss_loop(ranks: Ranks, world_size: int) -> None:
    names = [name for name, problem in PROBLEMS.items() if problem.num_stages >= world_size]
    found = ranks.run(run_problems, names, list(WAYS), world_size=world_size)
    for name in names:
        expected = summed_loss_loop(PROBLEMS[name])
        for way in WAYS:
            merged = {k: v for share in found for k, v in share[name, way].items()}
            assert_bit_equal(merged, expected)


@pytest.mark.distributed
def test_run_over_gloo_equals_the_summed_loss_loop(ranks: Ranks) -> None:
    name = "BatchNorm, 4 stages, short last batch"
    shares = ranks.run(run_problem, name, "at sync steps", "gloo", world_size=2)
    merged = {key: value for share in shares for key, value in share.items()}
    assert_bit_equal(merged, summed_loss_loop(PROBLEMS[name]))


def run_problems(
    world: World, names: Sequence[str], ways: Sequence[str]
) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    """On each rank: the weights of its own stages after every problem."""
    return {(name, way): run_problem(world, name, way) for name in names for way in ways}


def run_problem(world: World, name: str, way: str, transport: str = "auto") -> dict[str, torch.Tensor]:
    """This rank's share of one run."""
    config = PROBLEMS[name].config(**WAYS[way], executor="distributed", transport=(transport,))
    prepared = prepare(config, num_ranks=world.world_size)
    own = World(**{**vars(world), "prefix": f"{world.prefix}/{name}/{way}"})
    run_rank(prepared, Control(own), folder=None)
    placement = place(prepared.num_stages, world.world_size)
    return {
        full: prepared.cut.stages[index].state_dict()[local]
        for index in range(prepared.num_stages)
        if placement[index] == world.rank
        for local, full in prepared.cut.names(index).items()
    }
