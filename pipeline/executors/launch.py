"""How are the ranks of a run started on this machine, and started again? By torchrun's own launcher.

They are forked from a process that has imported everything and done nothing else (a fork server): importing PyTorch
takes seconds of processor time, which every rank would spend, at the start and again after every failure.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import uuid
from collections.abc import Callable, Sequence
from multiprocessing import forkserver

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

__all__ = ["launch", "warm_up"]

_IMPORTED_LATE = ("torch._dynamo", "torch.utils.flop_counter")
"""What runs import once they need it (the first optimiser made, the survey of the model)."""


def warm_up(entry: Callable[..., None]) -> None:
    """Begin to import what the ranks will need, in the process that they are forked from, and do not wait for it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost store is told by us, without C++ stack traces
    if _start_method() == "forkserver":
        multiprocessing.set_forkserver_preload([entry.__module__, *_IMPORTED_LATE])
        forkserver.ensure_running()


def launch(entry: Callable[..., None], arguments: Sequence[str], *, num_ranks: int, max_restarts: int) -> int:
    """Call `entry(*arguments)` in as many processes, with torchrun's environment, and wait for them.

    Args:
        entry: what each rank does; a function of a module.
        arguments: what it is called with.
        num_ranks: processes to start.
        max_restarts: times that all of them are started again after one has failed.

    Returns:
        0 if all ranks ended well, 1 otherwise; the ranks have said why.
    """
    # What a user has to know the ranks say themselves; the launcher's own report repeats it as a stack trace.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    warm_up(entry)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.1,
        start_method=_start_method(),
    )
    try:
        elastic_launch(config, entry)(*arguments)
    except (ChildFailedError, SignalException):
        return 1
    return 0


def _start_method() -> str:
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
