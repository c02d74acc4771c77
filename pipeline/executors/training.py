"""How is a network trained from Python, and which executor does it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.configuration.config import Config, Data, Executor
from pipeline.configuration.partition import Partition, partition
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, choose_device, make_feed, make_inbox, prepare
from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError
from pipeline.executors.executor import Execute, OnStatus, Result, concluded, recording, unseen
from pipeline.executors.session import Session, on_signals, threads
from pipeline.executors.threaded import run_threaded
from pipeline.randomness.keyed import undisturbed
from pipeline.stages.stage import Stage
from pipeline.virtual_time.costs import virtual_clock
from pipeline.virtual_time.simulator import simulate

__all__ = ["find_executor", "run_simulated", "train"]


def train(
    stages: Partition | nn.Module | Sequence[nn.Module],
    data: Any,
    *,
    loss: Any,
    steps: int,
    test: Sequence[Batch] = (),
    folder: str | Path | None = None,
    **settings: Any,
) -> Result:
    """Train stages in this process, each learning from its own source of gradients.

    Args:
        stages: a `Partition`, or a list of modules that are the stages.
        data: microbatches: a DataLoader, any iterable of (x, target), or `KeyedBatches`.
        loss: a loss module or function of (output, target): a mean or a sum over samples.
        steps: microbatches to train on; the data is read again and again until then.
        test: batches to evaluate on at the end.
        folder: where to write metrics, TensorBoard events, trace and checkpoints; None: nowhere.
        **settings: any other field of `Config`, as source=, sync=, optimizer=, executor=, seed=.

    Returns:
        The result; the modules in `stages` have been trained in place.

    Raises:
        ConfigurationError: something cannot work; no step was taken.
        StageFailure: a stage raised; names stage, step and cause.
    """
    cut = stages if isinstance(stages, Partition) else partition(stages, settings.get("num_stages"))
    config = Config(
        model=lambda: cut,
        data=lambda: Data(train=data, test=test),
        loss=loss,
        steps=steps,
        **{name: value for name, value in settings.items() if name != "num_stages"},
    )
    execute = find_executor(config.executor)
    return execute(prepare(config), folder=None if folder is None else Path(folder))


def find_executor(name: Executor) -> Execute:
    """What drives a run in this process, by the name in its configuration.

    Raises:
        ConfigurationError: that executor needs several processes.
    """
    if name not in _IN_PROCESS:
        raise ConfigurationError(
            f"executor {name} runs in several processes, which `dni train` or torchrun starts. "
            f"In this process choose one of: {', '.join(_IN_PROCESS)}."
        )
    return _IN_PROCESS[name]


def run_simulated(
    prepared: Prepared,
    *,
    folder: Path | None = None,
    resume: bool = False,
    on_status: OnStatus = unseen,
    stop_on_signal: bool = False,
) -> Result:
    """Run on one thread in virtual time; see `Execute`."""
    config = prepared.config
    *measured, output_bytes = [plan.activation_bytes for plan in prepared.plans]
    costs = config.costs.with_bytes(measured, error=output_bytes)
    clock = virtual_clock(costs, num_stages=prepared.num_stages)
    device = choose_device(config.device)
    with threads(config.num_threads), undisturbed():
        stages = [build_stage(prepared, i, clock=clock, device=device) for i in range(prepared.num_stages)]
        session = Session(prepared, stages, folder=folder, resume=resume)
        feed = make_feed(prepared, start=session.start)

        def look(stage: Stage) -> None:
            if session.look(stage):
                on_status(session.statuses())

        with recording(session, folder), on_signals(feed.interrupt, active=stop_on_signal):
            simulate(
                stages,
                feed.messages(),
                inboxes=[make_inbox(prepared, index) for index in range(prepared.num_stages)],
                clock=clock,
                costs=costs,
                on_drained=session.drained,
                on_turn=look,
            )
    return concluded(prepared, session, feed, folder=folder)


_IN_PROCESS: dict[Executor, Execute] = {"simulate": run_simulated, "threads": run_threaded}
