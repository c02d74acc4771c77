"""Which rates does curvature ask for while a method of first order trains, and what would a step with them do?

The training is as it would be without: a copy of the network is looked at.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dni import NoRatesError, ParameterPartition, Summary, cubic_rates, diagonal_rates, newton_rates, summarise_chain
from experiments.machine import machine
from experiments.wolinski2023_partition.bounded import bounded_rates
from experiments.wolinski2023_partition.config import Setting, Task, split, task_named
from experiments.wolinski2023_partition.networks import begun
from experiments.wolinski2023_partition.results import Look, Trace
from experiments.wolinski2023_partition.training import first_order, rounded, summary_batches
from pipeline import KeyedBatches

__all__ = ["DIRECTIONS", "RULES", "SIGNED", "TraceJob", "coupling_of", "trace"]

DIRECTIONS = ("gradient", "optimiser")
RULES: Mapping[str, Callable[[Summary], Tensor]] = {
    "newton": newton_rates,
    "cubic 1": partial(cubic_rates, strength=1.0),
    "cubic 10": partial(cubic_rates, strength=10.0),
    "bounded": partial(bounded_rates, strength=1.0),
    "diagonal": diagonal_rates,
    "one": lambda summary: newton_rates(_as_one(summary)).expand(len(summary.names)),
}
SIGNED = ("newton", "cubic 1", "diagonal")
"""Rules whose step is looked at with its negative rates too."""


@dataclass(frozen=True, kw_only=True)
class TraceJob:
    """One training that is looked at along its way."""

    task: str
    arm: str
    setting: Setting


def trace(job: TraceJob) -> list[Trace]:
    """Train, and look: one trace for each direction."""
    task = task_named(job.task)
    data = split(task)
    seed = task.seeds[0]
    module = begun(task.network(), gain=task.gain, seed=seed)
    optimizer = first_order(job.arm, job.setting, module)
    batches = KeyedBatches(data.train_x, data.train_y, batch_size=task.batch_size, seed=seed, drop_last=True).start(0)
    others = summary_batches(task, data, seed)
    views = {direction: _View(task) for direction in DIRECTIONS}
    steps_s = []
    for step in range(task.steps + 1):
        began_s = time.process_time()
        x, target = next(batches)
        optimizer.zero_grad()
        cross_entropy(module(x), target).backward()
        before = copy.deepcopy(module)
        optimizer.step()
        steps_s.append(time.process_time() - began_s)
        if step % task.trace_every == 0:
            batch = next(others)
            own = dict(module.named_parameters())
            moved = {name: (old.detach() - own[name].detach()) for name, old in before.named_parameters()}
            gradient = {name: parameter.grad for name, parameter in own.items() if parameter.grad is not None}
            views["gradient"].look(step, before, gradient, batch, unit=1.0)
            views["optimiser"].look(step, before, moved, batch, unit=job.setting.rate)
    return [view.record(job, direction, step_s=mean(steps_s)) for direction, view in views.items()]


def coupling_of(hessian: Tensor) -> Tensor:
    """|H_st| / sqrt |H_ss H_tt|, (S, S); 0 where a diagonal entry is 0."""
    size = hessian.diagonal().abs().sqrt()
    scaled = hessian.abs() / size.outer(size)
    return torch.where(scaled.isfinite(), scaled, 0.0)


class _View:
    """What was seen along one direction."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.names: tuple[str, ...] = ()
        self.looks: list[Look] = []
        self.matrices: list[Tensor] = []
        self.times_s: list[float] = []

    def look(
        self,
        step: int,
        module: nn.Module,
        direction: Mapping[str, Tensor],
        batch: tuple[Tensor, Tensor],
        *,
        unit: float,
    ) -> None:
        """A summary at the module's parameters, along what an optimiser with the rate `unit` took off."""
        u = {name: own / unit for name, own in direction.items()}
        partition = ParameterPartition.by_tensor({name: own.shape for name, own in u.items()})
        began_s = time.process_time()
        x, target = batch
        at_once = self.task.samples_at_once
        summary = summarise_chain(module, cross_entropy, x, target, u, partition, samples_at_once=at_once)
        self.times_s.append(time.process_time() - began_s)
        self.names = summary.names
        matrix = coupling_of(summary.hessian)
        self.matrices.append(matrix)
        found = {name: _found(rule, summary) for name, rule in RULES.items()}
        size = len(summary.names)
        self.looks.append(
            Look(
                step=step,
                rates={name: None if eta is None else list(map(rounded, eta.tolist())) for name, eta in found.items()},
                changes=_changes(module, u, _without_negative(found), batch),
                changes_as_found=_changes(module, u, {name: found[name] for name in SIGNED}, batch),
                coupling=rounded(float((matrix.sum() - matrix.diagonal().sum()) / (size * (size - 1)))),
                num_negative_curvatures=int((torch.linalg.eigvalsh(_scaled(summary.hessian)) < 0).sum()),
            )
        )

    def record(self, job: TraceJob, direction: str, *, step_s: float) -> Trace:
        """What is written down of it."""
        last = self.matrices[-max(1, len(self.matrices) // 3) :]
        return Trace(
            task=job.task,
            arm=job.arm,
            rate=job.setting.rate,
            direction=direction,
            names=list(self.names),
            looks=self.looks,
            interactions=[list(map(rounded, row)) for row in torch.stack(last).mean(0).tolist()],
            summary_s=rounded(mean(self.times_s)),
            step_s=rounded(step_s),
            machine=machine(),
        )


def _as_one(summary: Summary) -> Summary:
    """Of all subsets together, S = 1; the third order is not needed."""
    return Summary(
        names=("all",),
        gradient=summary.gradient.sum()[None],
        hessian=summary.hessian.sum()[None, None],
        third=torch.zeros(1, dtype=torch.float64),
    )


def _scaled(hessian: Tensor) -> Tensor:
    size = hessian.diagonal().abs().sqrt()
    size = torch.where(size > 0, size, 1.0)
    return hessian / size.outer(size)


def _found(rule: Callable[[Summary], Tensor], summary: Summary) -> Tensor | None:
    try:
        return rule(summary)
    except NoRatesError:
        return None


def _without_negative(found: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """As the optimiser uses them."""
    return {name: None if eta is None else eta.clamp(min=0) for name, eta in found.items()}


@torch.no_grad()
def _changes(
    module: nn.Module,
    direction: Mapping[str, Tensor],
    rates: Mapping[str, Tensor | None],
    batch: tuple[Tensor, Tensor],
) -> dict[str, float | None]:
    """What a step with each rule's rates does to the loss."""
    before = _loss(module, batch)
    return {
        name: None if eta is None else rounded(_loss(_stepped(module, direction, eta), batch) - before)
        for name, eta in rates.items()
    }


def _stepped(module: nn.Module, direction: Mapping[str, Tensor], rates: Tensor) -> nn.Module:
    """A copy after a step."""
    stepped = copy.deepcopy(module)
    for (name, own), rate in zip(stepped.named_parameters(), rates.tolist(), strict=True):
        own.sub_(rate * direction[name])
    return stepped


def _loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    x, target = batch
    return float(cross_entropy(torch.cat([module(part) for part in x.split(250)]), target))
