"""Do runs correct late gradients as the papers write it? Against a delayed SGD loop written out in float64.

Two stages: the lower one, tanh(tanh(x W1' + b1) W2' + b2), forwards step s once the gradient of step s - d is back, so
its gradients are d - 1 updates late; the upper one has the loss and is never late.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import Correction, DiscrepancyCorrection, NesterovLookahead, TrueGradient, WeightPrediction
from pipeline import Config, Data, KeyedBatches, Sgd, StageFailure, partition, prepare, run_simulated
from pipeline.stages.stash import StashPolicy
from tests.executors import EXECUTORS, Case, each_executor
from tests.faults import FailAt
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

STEPS, DELAY, BATCH = 14, 4, 16
LATE = DELAY - 1
RATE, MOMENTUM = 0.3, 0.5


def network() -> nn.Sequential:
    lower = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())
    return nn.Sequential(lower, nn.Linear(6, 4)).double()


@cache
def data() -> KeyedBatches:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(64, 12, generator=drawn, dtype=torch.float64)
    return KeyedBatches(x, torch.randint(4, (64,), generator=drawn), batch_size=BATCH, seed=3)


def config(**settings: Any) -> Config:
    plain = Config(
        model=lambda: partition(network(), at=["1"]),
        data=lambda: Data(train=data()),
        loss=nn.CrossEntropyLoss(),
        source=TrueGradient(),
        optimizer=Sgd(lr=RATE, momentum=MOMENTUM),
        steps=STEPS,
        seed=3,
        delay=(DELAY,),
    )
    return replace(plain, **settings)


@dataclass
class Rule:
    """A correction as its paper has it: functions of the updates that are to come, or have come since the forward."""

    correction: Correction | None
    ahead: Callable[[int], float] = lambda n: 0.0
    behind: Callable[[int], float] = lambda n: 0.0
    decay: float = 0.0
    rate: Callable[[int], float] = lambda step: 1.0
    coasts: bool = False


RULES = {
    "none": Rule(None),
    "prediction": Rule(WeightPrediction(momentum=0.7), ahead=float, decay=0.7),
    "discrepancy": Rule(
        DiscrepancyCorrection(discount=0.2, anneal=8),
        behind=float,
        decay=0.2 ** (1 / LATE),
        rate=lambda step: LATE ** -(1 - min(step / 8, 1)),
    ),
    "look-ahead": Rule(NesterovLookahead(momentum=0.8), ahead=lambda n: 0.8, decay=0.8, coasts=True),
}


def lower_gradients(x: Tensor, g: Tensor, forward: list[Tensor], backward: list[Tensor]) -> list[Tensor]:
    """dL/d(W1, b1, W2, b2), with the activations of some weights and the backward through others."""
    z = torch.tanh(x @ forward[0].T + forward[1])
    h = torch.tanh(z @ forward[2].T + forward[3])
    upper = g * (1 - h**2)
    lower = (upper @ backward[2]) * (1 - z**2)
    return [lower.T @ x, lower.sum(0), upper.T @ z, upper.sum(0)]


def delayed_sgd(stash: str, rule: Rule) -> list[Tensor]:
    """The loop written out; all weights at the end, W1, b1, W2, b2 of the lower stage first."""
    reference = prepare(config()).cut.stages
    w = [p.detach().clone() for p in reference[0].parameters()]
    top = [p.detach().clone().requires_grad_() for p in reference[1].parameters()]
    upper = torch.optim.SGD(top, lr=RATE, momentum=MOMENTUM)
    buffers: list[Tensor] | None = None
    velocity = [torch.zeros_like(p) for p in w]
    waiting: list[tuple[int, Tensor, Tensor, list[Tensor], int]] = []
    updates = 0

    def pull_back() -> None:
        nonlocal w, buffers, velocity, updates
        step, x, g, forward, at = waiting.pop(0)
        today = [p - rule.behind(updates - at) * v for p, v in zip(w, velocity, strict=True)]
        ways = {"weights": (forward, forward), "recompute": (today, today), "graph": (forward, today)}
        mean = [gradient / BATCH for gradient in lower_gradients(x, g, *ways[stash])]
        buffers = mean if buffers is None else [MOMENTUM * b + m for b, m in zip(buffers, mean, strict=True)]
        changes = [-RATE * rule.rate(step) * b for b in buffers]
        velocity = [rule.decay * v + (1 - rule.decay) * c for v, c in zip(velocity, changes, strict=True)]
        w = [p + c for p, c in zip(w, velocity if rule.coasts else changes, strict=True)]
        updates += 1

    for step, (x, target) in zip(range(STEPS), data().start(0), strict=False):
        forward = [p + rule.ahead(len(waiting)) * v for p, v in zip(w, velocity, strict=True)]
        h = torch.tanh(torch.tanh(x @ forward[0].T + forward[1]) @ forward[2].T + forward[3]).requires_grad_()
        nn.functional.cross_entropy(h @ top[0].T + top[1], target, reduction="sum").backward()
        for parameter in top:
            assert parameter.grad is not None
            parameter.grad /= BATCH
        upper.step()
        upper.zero_grad()
        assert h.grad is not None
        waiting.append((step, x, h.grad, forward, updates))
        if len(waiting) == DELAY:
            pull_back()
    while waiting:
        pull_back()
    return [*w, *(p.detach() for p in top)]


@pytest.mark.parametrize("stash", ["weights", "recompute", "graph"])
@pytest.mark.parametrize("name", RULES)
def test_corrected_run_equals_the_loop_written_out(name: str, stash: StashPolicy) -> None:
    rule = RULES[name]
    # With the forward's weights at hand nothing is left to estimate.
    twin = replace(rule, behind=lambda n: 0.0) if stash == "weights" else rule
    result = run_simulated(prepare(config(stash=stash, correction=rule.correction)))
    assert result.summary["stages"][0]["staleness_max"] == LATE
    found = list(result.export().values())
    torch.testing.assert_close(found, delayed_sgd(stash, twin), rtol=1e-10, atol=1e-12)


def test_every_rule_and_every_stash_makes_other_weights() -> None:
    ends = [delayed_sgd(stash, rule)[0] for stash in ("weights", "recompute", "graph") for rule in RULES.values()]
    ends.pop(2)  # discrepancy correction with the forward's own weights: T1 alone, not what a run does
    assert len({end.norm().item() for end in ends}) == len(ends)


@pytest.mark.parametrize("stash", ["weights", "recompute", "graph"])
@pytest.mark.parametrize("name", [name for name in RULES if name != "none"])
def test_stages_that_are_never_late_are_not_corrected(name: str, stash: StashPolicy) -> None:
    plain = run_simulated(prepare(config(stash="hold", delay=(1,)))).export()
    with pytest.warns(UserWarning, match=r"a setting has no effect: correction is .*no gradient is ever late"):
        prepared = prepare(config(stash=stash, delay=(1,), correction=RULES[name].correction))
    assert_bit_equal(run_simulated(prepared).export(), plain)


def test_intended_staleness_counts_updates_and_only_where_gradients_are_late() -> None:
    late = config(stash="graph", correction=WeightPrediction())
    assert [prepare(late).staleness(index) for index in range(2)] == [LATE, 0.0]
    assert prepare(replace(late, cadence=(2, 1))).staleness(0) == LATE / 2
    with pytest.warns(UserWarning, match="no gradient is ever late"):
        assert prepare(replace(late, stash="hold")).staleness(0) == 0.0


PROBLEM = Problem(num_stages=4, dropout=0.1, steps=12)
WAYS: dict[str, dict[str, Any]] = {
    "prediction": {"stash": "graph", "correction": WeightPrediction()},
    "discrepancy": {"stash": "recompute", "correction": DiscrepancyCorrection(anneal=8), "cadence": (2, 1, 1, 1)},
    "look-ahead": {"stash": "weights", "correction": NesterovLookahead(momentum=0.5)},
    "weightless": {"stash": "graph", "correction": DiscrepancyCorrection()},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("executor", each_executor("threads", "2 ranks"))
def test_corrected_run_is_the_same_as_simulated(executor: str, way: str, ranks: Ranks) -> None:
    case = Case(problem=PROBLEM, settings={"delay": (4, 3, 2), **WAYS[way]})
    found, expected = (EXECUTORS[name].run(case, ranks) for name in (executor, "simulate"))
    assert_bit_equal(found.weights, expected.weights)


@pytest.mark.parametrize("way", WAYS)
def test_corrected_run_killed_and_resumed_equals_one_never_killed(way: str, tmp_path: Path) -> None:
    def model(fail_at: int | None) -> object:
        blocks = list(PROBLEM.model())
        blocks[4] = nn.Sequential(FailAt(fail_at, "raise"), blocks[4])  # the last stage forwards a step once
        return partition(nn.Sequential(*blocks), at=["1", "2", "3"])

    def case(fail_at: int | None) -> Config:
        run = PROBLEM.config(delay=(4, 3, 2), checkpoint_every=6, **WAYS[way])
        return replace(run, model=partial(model, fail_at))

    whole = run_simulated(prepare(case(None))).export()
    with pytest.raises(StageFailure):
        run_simulated(prepare(case(9)), folder=tmp_path)
    resumed = run_simulated(prepare(case(None)), folder=tmp_path, resume=True)
    assert (resumed.summary["resumed_at"], resumed.summary["resume_exact"]) == (6, True)
    assert_bit_equal(resumed.export(), whole)
