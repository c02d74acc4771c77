"""Train a partitioned network from Python, on one thread, and get the result back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.config import Config, Data
from pipeline.costs import virtual_clock
from pipeline.errors import FailureRecord
from pipeline.feed import Batch
from pipeline.keyed import undisturbed
from pipeline.monitor import StageStatus
from pipeline.partition import Partition, partition
from pipeline.run import Prepared, build_stage, choose_device, make_feed, make_inbox, prepare
from pipeline.session import Session, on_signals, threads
from pipeline.simulator import simulate
from pipeline.stage import Stage
from pipeline.summary import summarize, write_summary

__all__ = ["Result", "run_simulated", "train"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run has come to."""

    summary: dict[str, Any]
    """The content of summary.json."""
    cut: Partition
    """The trained stages."""
    folder: Path | None = None
    """The run's folder, if it was given one."""

    def export(self) -> dict[str, Tensor]:
        """The whole network's state dict, under the names of the unsplit model."""
        return {
            full: self.cut.stages[index].state_dict()[local]
            for index in range(len(self.cut))
            for local, full in self.cut.names(index).items()
        }


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
    """Train stages on one thread, each learning from its own source of gradients.

    Args:
        stages: a `Partition`, or a list of modules that are the stages.
        data: microbatches: a DataLoader, any iterable of (x, target), or `KeyedBatches`.
        loss: a loss module or function of (output, target): a mean or a sum over samples.
        steps: microbatches to train on; the data is read again and again until then.
        test: batches to evaluate on at the end.
        folder: where to write metrics, TensorBoard events, trace and checkpoints; None: nowhere.
        **settings: any other field of `Config`, as source=, sync=, optimizer=, cadence=, seed=.

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
    return run_simulated(prepare(config), folder=None if folder is None else Path(folder))


def run_simulated(
    prepared: Prepared,
    *,
    folder: Path | None = None,
    resume: bool = False,
    on_status: Callable[[Sequence[StageStatus]], None] = lambda statuses: None,
    stop_on_signal: bool = False,
) -> Result:
    """Run on one thread in virtual time.

    Args:
        prepared: the run.
        folder: the run's folder.
        resume: go on from the folder's newest checkpoint.
        on_status: called with every stage's status as they change.
        stop_on_signal: drain and save on SIGINT and SIGTERM instead of dying of them.
    """
    config = prepared.config
    costs = config.costs.with_bytes([plan.activation_bytes for plan in prepared.plans[:-1]])
    clock = virtual_clock(costs, num_stages=prepared.num_stages)
    device = choose_device(config.device)
    counts: Counter[str] = Counter()

    def count(name: str) -> int:
        counts[name] += 1
        return counts[name]

    with threads(config.num_threads), undisturbed():
        stages = [build_stage(prepared, i, clock=clock, device=device) for i in range(prepared.num_stages)]
        session = Session(prepared, stages, folder=folder, resume=resume, count=count)
        feed = make_feed(prepared, start=session.start)

        def look(stage: Stage) -> None:
            if session.look(stage):
                on_status(session.statuses())

        try:
            with on_signals(feed.interrupt, active=stop_on_signal):
                simulate(
                    stages,
                    feed.messages(),
                    inboxes=[make_inbox(prepared, index) for index in range(prepared.num_stages)],
                    clock=clock,
                    costs=costs,
                    on_drained=session.drained,
                    on_turn=look,
                )
        except Exception as error:
            if folder is not None:
                (folder / "error.json").write_text(FailureRecord.of(error, rank=0).to_json())
            raise
        finally:
            session.close()
    summary = summarize(
        prepared,
        stages=session.entries(),
        scalars=session.scalars(),
        world_size=1,
        start=session.start,
        stopped_at=feed.stopped_at,
        wall_s=session.wall_s,
    )
    if folder is not None:
        write_summary(folder, summary)
    return Result(summary=summary, cut=prepared.cut, folder=folder)
