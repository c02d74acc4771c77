"""Who carries out the runs of an experiment? Worker processes of one thread each; a bar shows how far they are."""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Tell", "carry_out", "carry_out_in_parts"]

Job = TypeVar("Job")
Result = TypeVar("Result")

Tell: TypeAlias = Callable[[Any], None]
"""What a job calls: with an int, that so many of its parts are done; with a str, that the part of this name is; with
anything else, that this is a result of it."""


def carry_out(
    jobs: Sequence[Job],
    measure: Callable[[Job], Result],
    *,
    name: Callable[[Job], str],
    on_result: Callable[[Result], None],
    num_workers: int,
    console: Console,
) -> int:
    """Carry out jobs in processes of their own, several at a time.

    Args:
        jobs: to be carried out, in this order.
        measure: carries one out; a function that can be pickled, as jobs and results can.
        name: what a job is called if it fails.
        on_result: gets every result on this thread as soon as it is there.
        num_workers: processes.
        console: has a bar of the jobs, and in the end the failures.

    Returns:
        The exit code: 1 if a job failed. A failure does not end the others.
    """
    return carry_out_in_parts(
        jobs,
        partial(_whole, measure),
        parts="runs",
        num_parts=len(jobs),
        name=name,
        on_result=on_result,
        num_workers=num_workers,
        console=console,
    )


def carry_out_in_parts(
    jobs: Sequence[Job],
    work: Callable[[Job, Tell], None],
    *,
    parts: str,
    num_parts: int,
    name: Callable[[Job], str],
    on_result: Callable[[Any], None],
    num_workers: int,
    console: Console,
) -> int:
    """The same for jobs that tell of their parts while they go on, and of any number of results.

    Args:
        jobs: as above.
        work: carries a job out, telling.
        parts: what the bar counts.
        num_parts: of all jobs together.
        name: as above.
        on_result: gets every result on this thread, at most half a second after it was told.
        num_workers: processes.
        console: has a bar of the parts, and in the end the failures.

    Returns:
        As above.
    """
    if not jobs:
        return 0
    context = multiprocessing.get_context("spawn")
    with (
        context.Manager() as manager,
        _bar(console) as bar,
        ProcessPoolExecutor(num_workers, mp_context=context, initializer=_one_thread) as pool,
    ):
        told: queue.Queue[Any] = manager.Queue()
        line = bar.add_task(parts, total=num_parts)

        def hear() -> None:
            while not told.empty():
                match told.get():
                    case int(num_done):
                        bar.advance(line, num_done)
                    case str(part):
                        bar.update(line, advance=1, description=part)
                    case result:
                        on_result(result)

        failures = _failures({pool.submit(work, job, told.put): name(job) for job in jobs}, hear, console)
    for failure in failures:
        console.print(failure, markup=False)
    return 1 if failures else 0


def _failures(names: Mapping[Future[None], str], hear: Callable[[], None], console: Console) -> list[str]:
    """Wait for all jobs; those that failed, in a line each. Where each comes from is shown at once."""
    failures = []
    try:
        for future in _as_they_finish(names, hear):
            if (error := future.exception()) is not None:
                console.print("".join(traceback.format_exception(error)), markup=False, highlight=False)
                failures.append(f"{names[future]}: {type(error).__name__}: {error}")
    finally:
        for future in names:
            future.cancel()  # only after an interruption are there any left
    return failures


def _as_they_finish(futures: Mapping[Future[None], str], hear: Callable[[], None]) -> Iterator[Future[None]]:
    pending = set(futures)
    while pending:
        finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
        hear()
        yield from finished


def _whole(measure: Callable[[Job], Result], job: Job, tell: Tell) -> None:
    tell(measure(job))
    tell(1)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def _one_thread() -> None:
    torch.set_num_threads(1)
