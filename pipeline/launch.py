"""How are the ranks of a run started on this machine? By torchrun's own launcher, as `torchrun --standalone` does."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

__all__ = ["launch"]


def launch(arguments: Sequence[str], *, num_ranks: int, folder: str, max_restarts: int) -> int:
    """Run `python -m pipeline ARGUMENTS` as `num_ranks` ranks and wait for them.

    Args:
        arguments: command line of each rank.
        num_ranks: processes to start.
        folder: the run's folder, which the ranks learn through the environment.
        max_restarts: times that all of them are started again after one has failed.

    Returns:
        0 if all ranks ended well, 1 otherwise; the ranks have said why.
    """
    # What a user has to know the ranks say themselves; the launcher's own report repeats it as a stack trace.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ["DNI_RUN_FOLDER"] = folder
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost store is told by us, without C++ stack traces
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_ranks,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "pipeline", *arguments)
    except (ChildFailedError, SignalException):
        return 1
    finally:
        del os.environ["DNI_RUN_FOLDER"]
    return 0
