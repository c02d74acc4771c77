"""How well does a network do in some way of training, step by step and by the processor time it took?"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, Optimizer

from dni import CurvatureRates, CurvatureSettings, NoRatesError, ParameterPartition, Summary, summarise_chain
from experiments.machine import machine
from experiments.wolinski2023_partition.config import ADAM, ARMS, Setting, Split, Task, rule_of, split, task_named
from experiments.wolinski2023_partition.networks import begun
from experiments.wolinski2023_partition.results import Point, Run
from pipeline import KeyedBatches

__all__ = ["Batches", "Job", "Watched", "first_order", "rounded", "summary_batches", "train"]

Batches = Iterator[tuple[Tensor, Tensor]]

_DIVERGED = 1e3
"""A loss of which nothing comes any more."""
_NUM_TRAINING = 2000
"""Samples of which the training loss is taken."""
_OTHER = 10_000
"""Added to the seed that shuffles what summaries are of."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run."""

    task: str
    arm: str
    setting: Setting
    seed: int
    limit_s: float | None = None
    """Processor time after which it ends; None: it ends after the task's steps."""


@dataclass(kw_only=True)
class Watched:
    """A rule, and what it found."""

    rule: Callable[[Summary], Tensor]
    num_unsolved: int = 0
    negative: Counter[str] = field(default_factory=Counter)
    """By subset: rates below zero."""
    found: list[dict[str, float] | None] = field(default_factory=list)
    """By summary; None: no rates."""

    def __call__(self, summary: Summary) -> Tensor:
        try:
            rates = self.rule(summary)
        except NoRatesError:
            self.found.append(None)
            raise
        self.found.append(dict(zip(summary.names, map(rounded, rates.tolist()), strict=True)))
        self.negative.update(name for name, rate in zip(summary.names, rates.tolist(), strict=True) if rate < 0)
        return rates


def train(job: Job) -> Run:
    """Carry out one run."""
    task = task_named(job.task)
    data = split(task)
    module = begun(task.network(), gain=task.gain, seed=job.seed)
    started_s = time.perf_counter()
    run = _Course(job, task, data, module)
    while run.goes_on():
        run.step()
    return run.record(wall_s=time.perf_counter() - started_s)


def first_order(arm: str, setting: Setting, module: nn.Module) -> Optimizer:
    """Adam, or SGD with momentum."""
    if arm == ADAM:
        return Adam(module.parameters(), lr=setting.rate)
    return SGD(module.parameters(), lr=setting.rate, momentum=0.9)


def summary_batches(task: Task, data: Split, seed: int) -> Batches:
    """Other batches of the training samples, for summaries."""
    return KeyedBatches(data.train_x, data.train_y, batch_size=task.summary_size, seed=seed + _OTHER).start(0)


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


class _Course:
    """A run under way."""

    def __init__(self, job: Job, task: Task, data: Split, module: nn.Sequential) -> None:
        self.job, self.task, self.data, self.module = job, task, data, module
        batches = KeyedBatches(data.train_x, data.train_y, batch_size=task.batch_size, seed=job.seed, drop_last=True)
        self.batches = batches.start(0)
        self.others = summary_batches(task, data, job.seed)
        arm = ARMS[job.arm]
        self.watched: Watched | None = None
        self.optimizer: Optimizer | CurvatureRates
        if arm.partition is None:
            self.optimizer = first_order(job.arm, job.setting, module)
        else:
            own = dict(module.named_parameters())
            self.watched = Watched(rule=rule_of(arm, job.setting))
            self.optimizer = CurvatureRates(
                SGD(own.values(), lr=1.0, momentum=0.9),
                own,
                arm.partition({name: parameter.shape for name, parameter in own.items()}),
                CurvatureSettings(
                    rule=self.watched,
                    period=task.period,
                    factor=job.setting.rate,
                    summary_memory=arm.memory,
                    floor=arm.floor,
                ),
            )
        self.num_steps, self.cpu_s, self.summary_s = 0, 0.0, 0.0
        self.stopped: Counter[str] = Counter()
        self.points: list[Point] = []
        self.diverged = False

    def goes_on(self) -> bool:
        """Whether there is a further step; looks at the network where that is due."""
        limit_s, steps = self.job.limit_s, self.task.steps
        over = self.diverged or (self.num_steps >= steps if limit_s is None else self.cpu_s >= limit_s)
        every = self.task.steps_per_point if self.num_steps <= steps else steps
        if not self.diverged and (over or self.num_steps % every == 0):
            self.points.append(self._point())
        return not over

    def step(self) -> None:
        """One step, timed."""
        began_s = time.process_time()
        x, target = next(self.batches)
        self.optimizer.zero_grad()
        loss = cross_entropy(self.module(x), target)
        loss.backward()
        if not float(loss.detach()) < _DIVERGED:
            self.diverged = True
            return
        if isinstance(self.optimizer, CurvatureRates):
            due = self.num_steps % self.task.period == 0
            self.optimizer.step(self._summarise)
            if due:
                rates = zip(self.optimizer.partition.names, self.optimizer.rates.tolist(), strict=True)
                self.stopped.update(name for name, rate in rates if rate == 0)
        else:
            self.optimizer.step()
        self.num_steps += 1
        self.cpu_s += time.process_time() - began_s

    def record(self, *, wall_s: float) -> Run:
        """What is written down of it."""
        watched = self.watched
        num_summaries = len(watched.found) if watched else 0
        return Run(
            task=self.job.task,
            arm=self.job.arm,
            rate=self.job.setting.rate,
            strength=self.job.setting.strength,
            seed=self.job.seed,
            limit_s=self.job.limit_s,
            diverged=self.diverged,
            num_steps=self.num_steps,
            cpu_s=round(self.cpu_s, 3),
            summary_s=round(self.summary_s, 3),
            wall_s=round(wall_s, 1),
            points=self.points,
            num_summaries=num_summaries,
            num_unsolved=sum(found is None for found in watched.found) if watched else 0,
            negative=dict(watched.negative) if watched else {},
            stopped=dict(self.stopped),
            found=list(watched.found) if watched else [],
            machine=machine(),
        )

    def _summarise(self, direction: Mapping[str, Tensor]) -> Summary:
        began_s = time.process_time()
        assert isinstance(self.optimizer, CurvatureRates)
        x, target = next(self.others)
        partition: ParameterPartition = self.optimizer.partition
        summary = summarise_chain(
            self.module, cross_entropy, x, target, direction, partition, samples_at_once=self.task.samples_at_once
        )
        self.summary_s += time.process_time() - began_s
        return summary

    def _point(self) -> Point:
        data = self.data
        train_loss, _ = _looked_at(self.module, data.train_x[:_NUM_TRAINING], data.train_y[:_NUM_TRAINING])
        held_out_loss, held_out = _looked_at(self.module, data.held_out_x, data.held_out_y)
        _, test = _looked_at(self.module, data.test_x, data.test_y)
        if not math.isfinite(train_loss + held_out_loss):
            self.diverged = True
        return Point(
            step=self.num_steps,
            cpu_s=round(self.cpu_s, 3),
            train_loss=round(train_loss, 5),
            held_out_loss=round(held_out_loss, 5),
            held_out_accuracy=held_out,
            test_accuracy=test,
        )


@torch.no_grad()
def _looked_at(module: nn.Module, x: Tensor, target: Tensor) -> tuple[float, float]:
    """Mean loss, and the fraction of samples whose class is right."""
    outputs = torch.cat([module(part) for part in x.split(250)])
    return float(cross_entropy(outputs, target)), float((outputs.argmax(1) == target).double().mean())
