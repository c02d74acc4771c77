"""Which faults are put into which run?

The run: four stages with conditional synthetic gradients and syncs, in fixed order, on the digits; a checkpoint every
10 steps, an evaluation every 20. Stage 2 has the fault (rank 2 of four), at or after step 25.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from dni import Bernoulli, ConditionalSyntheticGradient
from experiments.faults.injected import FailingSource, Faulty, fail, failing_adam, fill_disk, kill, noted, pause
from pipeline import Adam, Config
from pipeline.configuration.config import Executor
from pipeline.configuration.quickstart import digits

__all__ = ["CASES", "NUM_STAGES", "Case", "faulty", "undisturbed"]

NUM_STAGES = 4
_STEP = 25
_NUM_CLASSES = 10
_GONE = "the process of stage {} has died or was killed"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault."""

    name: str
    phase: str
    """What is going on when it strikes."""
    culprit: str
    """Words that the message on every rank has to hold; empty: nothing fails."""
    fault: Callable[[int], None] = lambda agent: fail()
    """Is given the process that started the ranks, and serves the store."""
    executors: tuple[Executor, ...] = ("simulate", "threads", "distributed")
    stage: int = 2
    step: int = _STEP
    """In which it strikes."""
    kills: bool = False
    """Whether the process that has it dies of it."""
    kills_agent: bool = False
    stops: bool = False
    """Whether the process that has it learns of nothing until it goes on."""
    shows: bool = False
    """Whether what is measured is the time until rank 0 shows a silent rank."""
    dead_after_s: float = 30.0


def _exceptions() -> list[Case]:
    steps = {"forward": 25, "backward": 25, "source learning": 25, "update": 25, "checkpoint": 30}
    cases = [
        Case(name=f"exception in {phase}", phase=phase, step=step, culprit=f"stage 2 failed at step {step} in {phase}")
        for phase, step in steps.items()
    ]
    first_batch = "stage 2 failed at step 0 in evaluation"  # steps of an evaluation are those of its own data
    return [*cases, Case(name="exception in evaluation", phase="evaluation", step=40, culprit=first_batch)]


def _others() -> list[Case]:
    ranks: tuple[Executor, ...] = ("distributed",)
    return [
        Case(
            name="disk full while saving",
            phase="checkpoint",
            step=30,
            culprit="could not be saved at step 30",
            fault=lambda agent: fill_disk(),
        ),
        Case(
            name="killed while saving",
            phase="checkpoint",
            step=30,
            culprit=_GONE.format(2),
            fault=lambda agent: fill_disk(),  # the kernel then kills whoever writes on
            kills=True,
        ),
        Case(name="SIGKILL", phase="forward", culprit=_GONE.format(2), fault=lambda agent: kill(), kills=True),
        Case(
            name="SIGKILL of rank 0",
            phase="forward",
            culprit=_GONE.format(0),
            fault=lambda agent: kill(),
            executors=ranks,
            stage=0,
            kills=True,
        ),
        Case(
            name="SIGKILL of the store",
            phase="forward",
            culprit="the store at",
            fault=kill,
            executors=ranks,
            kills_agent=True,
        ),
        Case(
            name="SIGSTOP for 5 s",
            phase="forward",
            culprit="",
            fault=lambda agent: pause(5.0),
            executors=ranks,
            shows=True,
        ),
        Case(
            name="SIGSTOP, dead after 3 s",
            phase="forward",
            culprit="the process of stage 2 has given no sign of life",
            fault=lambda agent: pause(6.0),
            executors=ranks,
            stops=True,
            dead_after_s=3.0,
        ),
        Case(name="slow: 50 ms more a step", phase="slow", culprit="", fault=lambda agent: time.sleep(0.05)),
    ]


CASES: Mapping[str, Case] = {case.name: case for case in (*_exceptions(), *_others())}


def undisturbed(executor: Executor) -> Config:
    """The run that nothing happens to."""
    source = ConditionalSyntheticGradient(_NUM_CLASSES)
    return Config(
        model=_stages,
        data=digits,
        loss=nn.CrossEntropyLoss(),
        source=(source,) * (NUM_STAGES - 1),
        sync=Bernoulli(0.2),
        optimizer=(Adam(),) * NUM_STAGES,
        steps=40,
        executor=executor,
        evaluate_every=20,
        checkpoint_every=10,
        log_every=5,
    )


def faulty(case: Case, executor: Executor, *, folder: Path, agent: int) -> Config:
    """The run with a fault.

    Args:
        case: the fault.
        executor: who drives the run.
        folder: of the run; the time of the fault is written there.
        agent: process that started the ranks, and serves the store.
    """
    strike = noted(folder, partial(case.fault, agent))
    base = undisturbed(executor)
    changes: dict[str, Any] = {"dead_after_s": case.dead_after_s} if executor == "distributed" else {}
    if case.phase == "source learning":
        source = FailingSource(_NUM_CLASSES, step=_STEP, fault=strike)
        changes["source"] = tuple(
            source if index == case.stage else ConditionalSyntheticGradient(_NUM_CLASSES)
            for index in range(NUM_STAGES - 1)
        )
    elif case.phase == "update":
        changes["optimizer"] = tuple(
            failing_adam(_STEP, strike) if index == case.stage else Adam() for index in range(NUM_STAGES)
        )

    def model() -> list[nn.Module]:
        stages = _stages()
        stages[case.stage][0] = Faulty(case.phase, step=_STEP, fault=strike)
        return list(stages)

    return replace(base, model=model, **changes)


def _stages() -> list[nn.Sequential]:
    sizes = [(64, 128), (128, 128), (128, 128), (128, 10)]
    last = len(sizes) - 1
    return [
        nn.Sequential(Faulty(), nn.Linear(*size), *([nn.ReLU()] if index < last else []))
        for index, size in enumerate(sizes)
    ]
