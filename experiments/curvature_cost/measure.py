"""How long does a scheme take, in plain passes of the same run, and how much memory does it need?"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from torch import Tensor, nn

from dni import Summary
from experiments.curvature_cost.cases import Case
from experiments.curvature_cost.networks import NETWORKS, initialised
from experiments.curvature_cost.schemes import SCHEMES, Problem, plain_pass
from experiments.datasets import cifar10_subset

__all__ = ["difference", "peak_gib", "problem_of", "timed"]

_FEW = 2
"""Samples of the turn that is not counted."""


def problem_of(case: Case) -> Problem:
    """The first training samples, at the initial weights."""
    network = NETWORKS[case.network]
    data = cifar10_subset("flat" if network.flat else "image")
    return _problem(initialised(network), data.train_x[: case.num_samples], data.train_y[: case.num_samples])


def _problem(module: nn.Module, x: Tensor, target: Tensor) -> Problem:
    return Problem.along_the_gradient(module, x.clone(), target.clone())


def timed(case: Case, *, rounds: int) -> list[dict[str, Any]]:
    """A line for each scheme: by round, processor seconds over those of a plain pass just before and after."""
    problem = problem_of(case)
    warm = _problem(problem.module, problem.x[:_FEW], problem.target[:_FEW])
    ratios: dict[str, list[float]] = {scheme: [] for scheme in case.schemes}
    plain_s: list[float] = []
    found: dict[str, Summary] = {}
    for scheme in case.schemes:
        SCHEMES[scheme](warm, None)
    plain_pass(problem)
    for number in range(min(rounds, case.most_rounds)):
        for scheme in sorted(case.schemes, reverse=number % 2 == 1):
            before = [_seconds(lambda: plain_pass(problem))[0] for _ in range(case.plain_passes)]
            took_s, found[scheme] = _seconds(lambda own=scheme: SCHEMES[own](problem, case.samples_at_once))  # type: ignore[misc]
            after = [_seconds(lambda: plain_pass(problem))[0] for _ in range(case.plain_passes)]
            plain_s += [*before, *after]
            ratios[scheme].append(took_s / median([*before, *after]))
    first = found[case.schemes[0]]
    return [
        {
            "kind": "time",
            "network": case.network,
            "num_samples": case.num_samples,
            "samples_at_once": case.samples_at_once,
            "scheme": scheme,
            "num_subsets": problem.partition.num_subsets,
            "plain_s": round(median(plain_s), 5),
            "passes": [round(ratio, 4) for ratio in own],
            "difference": difference(found[scheme], first),
        }
        for scheme, own in ratios.items()
    ]


def difference(one: Summary, other: Summary) -> float:
    """The largest of the three orders, relative to the largest number of the order."""
    pairs = ((one.gradient, other.gradient), (one.hessian, other.hessian), (one.third, other.third))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def peak_gib(case: Case, scheme: str | None) -> float:
    """The most memory that this process ever had, after one turn of a scheme; None: of plain passes."""
    problem = problem_of(case)
    if scheme is None:
        plain_pass(problem)
    else:
        SCHEMES[scheme](problem, case.samples_at_once)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds: other processes may run."""
    started_s = time.process_time()
    found = work()
    return time.process_time() - started_s, found
