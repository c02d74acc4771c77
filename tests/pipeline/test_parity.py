"""Is a run with the true gradient the same as plain PyTorch, bit for bit, in every executor?"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import Always, ConditionalSyntheticGradient, Constant, Steps
from pipeline import Adam, Sgd, prepare, run_simulated
from tests.executors import EXECUTORS, Case, each_executor
from tests.reference import Problem, assert_bit_equal, initial_model, mean_loss_loop, state, summed_loss_loop
from tests.spawn import Ranks

PROBLEMS = {
    "plain, 5 stages": Problem(num_stages=5, batch_norm=False),
    "BatchNorm, 4 stages, short last batch": Problem(num_stages=4),
    "BatchNorm and dropout, 3 stages, Adam": Problem(num_stages=3, dropout=0.3, optimizer="adam"),
    "dropout, 2 stages, N = 256": Problem(num_stages=2, batch_norm=False, dropout=0.2, batch_size=256, steps=8),
    "one stage, Adam, N = 256": Problem(num_stages=1, optimizer="adam", batch_size=256, steps=8),
}
WAYS: dict[str, dict[str, Any]] = {
    "from above": {},
    "from above, always ready": {"arrival": "ready", "max_in_flight": (3,)},
    "at sync steps": {"source": ConditionalSyntheticGradient(num_classes=10), "sync": Always()},
}


@cache
def plain_loop(name: str) -> dict[str, Tensor]:
    """What plain PyTorch makes of a problem."""
    return summed_loss_loop(PROBLEMS[name])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_run_equals_the_summed_loss_loop(executor: str, name: str, way: str, ranks: Ranks) -> None:
    problem = PROBLEMS[name]
    if EXECUTORS[executor].num_processes > problem.num_stages:
        pytest.skip("a stage lives on one rank")
    found = EXECUTORS[executor].run(Case(problem=problem, settings=WAYS[way]), ranks)
    assert_bit_equal(found.weights, plain_loop(name))


@pytest.mark.parametrize("name", ["plain, 5 stages", "BatchNorm, 4 stages, short last batch"])
@pytest.mark.parametrize("executor", each_executor("1 rank", "4 ranks"))
def test_other_numbers_of_ranks_equal_the_summed_loss_loop(executor: str, name: str, ranks: Ranks) -> None:
    found = EXECUTORS[executor].run(Case(problem=PROBLEMS[name], settings={}), ranks)
    assert_bit_equal(found.weights, plain_loop(name))


@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_simulated_run_equals_the_mean_loss_loop_when_n_is_a_power_of_two(num_stages: int, optimizer: str) -> None:
    problem = Problem(num_stages=num_stages, optimizer=optimizer, batch_size=256, drop_last=True, steps=7)
    result = run_simulated(prepare(problem.config()))
    assert_bit_equal(result.export(), mean_loss_loop(problem))


@pytest.mark.parametrize("bound", [1, 4])
@pytest.mark.parametrize("executor", each_executor("simulate", "threads"))
def test_accumulation_over_a_cadence_equals_the_loop_that_accumulates(executor: str, bound: int, ranks: Ranks) -> None:
    problem = Problem(num_stages=4, batch_norm=False, steps=22)
    settings = {"cadence": (4,), "arrival": "fixed", "delay": (bound,)}
    found = EXECUTORS[executor].run(Case(problem=problem, settings=settings), ranks)
    assert_bit_equal(found.weights, summed_loss_loop(problem, cadence=4))


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
        assert_bit_equal(result.export(), plain_loop("plain, 5 stages"))


@pytest.mark.distributed
def test_run_over_gloo_equals_the_summed_loss_loop(ranks: Ranks) -> None:
    name = "BatchNorm, 4 stages, short last batch"
    case = Case(problem=PROBLEMS[name], settings={**WAYS["at sync steps"], "transport": ("gloo",)})
    assert_bit_equal(EXECUTORS["2 ranks"].run(case, ranks).weights, plain_loop(name))
