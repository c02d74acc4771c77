"""How soon does every rank know of a fault, whom does it blame, and what is lost?

`python -m experiments.faults.run` puts each fault into the same run, under each executor, and then resumes the run.
Every rank notes when it learns of the failure, and what it is told. Results are appended to results.jsonl.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from experiments.faults.cases import CASES, NUM_STAGES, Case, faulty, undisturbed
from experiments.machine import machine
from experiments.records import append_line
from pipeline import prepare, run_simulated
from pipeline.configuration.config import Executor
from pipeline.executors.agreement import prepare_together
from pipeline.executors.distributed import run_rank
from pipeline.executors.launch import launch, warm_up
from pipeline.executors.training import find_executor
from pipeline.records import checkpoint
from pipeline.records.monitor import StageStatus
from pipeline.transports.control import Control, world_from_environment

HERE = Path(__file__).parent
_ENDED_S = 20.0
"""Orphaned ranks have to end within this."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """For example: python -m experiments.faults.run --only SIGKILL --repeats 1"""

    executors: tuple[Executor, ...] = ("simulate", "threads", "distributed")
    repeats: int = 3
    """Runs of each case; the table has the medians."""
    only: str = ""
    """Run the cases whose name contains this."""
    out: Path = HERE / "results.jsonl"


# On the process that has the fault


def be_rank(name: str, folder: str, agent: int, resume: bool) -> None:
    """One rank of a run with a fault, or of the run that goes on from there."""
    world = world_from_environment()
    assert world is not None
    control, where = Control(world), Path(folder)

    def show(statuses: Sequence[StageStatus]) -> None:
        if any(status.silent_s for status in statuses) and not (where / "shown").exists():
            (where / "shown").write_text(repr(time.time()))

    def learn(error: BaseException) -> None:
        note(where, world.rank, error)

    case = CASES[name]
    config = undisturbed("distributed") if resume else faulty(case, "distributed", folder=where, agent=agent)
    die_of_full_disk(case)
    prepared = prepare_together(config, control)
    try:
        run_rank(prepared, control, folder=where, resume=resume, on_status=show, on_failure=learn)
    except Exception:
        sys.exit(1)


def be_process(name: str, executor: Executor, folder: str, resume: bool) -> None:
    """A whole run with a fault, or what goes on from there, in this process."""
    case, where = CASES[name], Path(folder)
    config = undisturbed(executor) if resume else faulty(case, executor, folder=where, agent=0)
    die_of_full_disk(case)
    try:
        find_executor(executor)(prepare(config), folder=where, resume=resume)
    except Exception as error:
        note(where, 0, error)
        sys.exit(1)


def note(folder: Path, rank: int, error: BaseException) -> None:
    """Write down that this rank knows, since when, and of what."""
    text = json.dumps({"time_s": time.time(), "pid": os.getpid(), "message": str(error)})
    (folder / f"knows-{rank}.tmp").write_text(text)
    (folder / f"knows-{rank}.tmp").rename(folder / f"knows-{rank}.json")


def die_of_full_disk(case: Case) -> None:
    """Where a process is to be killed while it saves, the kernel does it, in the midst of the file."""
    if case.kills and case.phase == "checkpoint":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


# On the process that measures


def measure(case: Case, executor: Executor, *, expected: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Run into the fault, go on from there, and say what came of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(case, executor, folder, resume=False)
        knows = heard(case, folder)
        struck_s = float((folder / "fault").read_text())
        if case.culprit:
            run(case, executor, folder, resume=True)
        summary = json.loads((folder / "summary.json").read_text())
        survivors = (NUM_STAGES if executor == "distributed" else 1) - (case.kills or case.stops)
        line = {
            "fault": case.name,
            "executor": executor,
            "knows_s": [round(rank["time_s"] - struck_s, 3) for rank in knows],
            "all_know": len(knows) == survivors if case.culprit else not knows,
            "names_culprit": all(case.culprit in rank["message"] for rank in knows) if case.culprit else None,
            "message": knows[0]["message"] if knows else "",
            "steps_lost": case.step - summary["resumed_at"] if case.culprit else 0,
            "equal": equal(folder, expected),
        }
        if case.shows:
            line["shown_s"] = round(float((folder / "shown").read_text()) - struck_s, 3)
        return line


def heard(case: Case, folder: Path) -> list[dict[str, Any]]:
    """What the ranks have noted; a rank that was stopped could know of nothing."""
    notes = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("knows-*.json"))}
    return [noted for name, noted in notes.items() if not case.stops or name != f"knows-{case.stage}"]


def run(case: Case, executor: Executor, folder: Path, *, resume: bool) -> None:
    """One run to its end, whatever that is."""
    if executor != "distributed":
        warm_up(be_process)
        context: ForkServerContext = multiprocessing.get_context("forkserver")
        process = context.Process(target=be_process, args=(case.name, executor, str(folder), resume))
        process.start()
        process.join()
    elif case.kills_agent and not resume:
        own = [sys.executable, "-m", "experiments.faults.run", "--agent-of", case.name, str(folder)]
        subprocess.run(own, check=False, env=os.environ | {"TORCH_CPP_LOG_LEVEL": "ERROR"})
        wait_orphans(folder)
    else:
        launch_ranks(case, folder, resume=resume)


def launch_ranks(case: Case, folder: Path, *, resume: bool) -> None:
    """The ranks, under torchrun's launcher in this process."""
    launch(be_rank, [case.name, str(folder), os.getpid(), resume], num_ranks=NUM_STAGES, max_restarts=0)


def wait_orphans(folder: Path) -> None:
    """Wait for ranks whose agent has died.

    Raises:
        TimeoutError: one has not ended.
    """
    deadline_s = time.monotonic() + _ENDED_S
    while time.monotonic() < deadline_s:
        pids = [json.loads(path.read_text())["pid"] for path in folder.glob("knows-*.json")]
        if len(pids) == NUM_STAGES and not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return
        time.sleep(0.05)
    raise TimeoutError(f"some of {NUM_STAGES} ranks have not ended {_ENDED_S} s after the store was killed")


def equal(folder: Path, expected: dict[str, torch.Tensor]) -> bool:
    """Whether the run has ended with these weights, bit for bit."""
    path, manifest = checkpoint.latest(folder / "checkpoints")
    states = [checkpoint.read_stage(path, i, device=torch.device("cpu")) for i in range(manifest.num_stages)]
    weights = {name: value for state in states for name, value in state["module"].items()}
    return weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)


def main() -> None:
    """Measure every case, or start the ranks of one whose agent is to die."""
    if sys.argv[1:2] == ["--agent-of"]:
        launch_ranks(CASES[sys.argv[2]], Path(sys.argv[3]), resume=False)
        return
    options = tyro.cli(Options, description=Options.__doc__)
    console = Console(soft_wrap=True, highlight=False)
    warm_up(be_rank)
    expected = run_simulated(prepare(undisturbed("simulate"))).export()
    cases = [case for name, case in CASES.items() if options.only in name]
    for repeat in range(options.repeats):
        for case in cases:
            for executor in case.executors:
                if executor in options.executors:
                    line = measure(case, executor, expected=expected) | {"repeat": repeat, **machine()}
                    append_line(line, options.out)
                    console.print(
                        f"{case.name}, {executor}: {line['knows_s']} s, equal: {line['equal']}; {line['message']}"
                    )


if __name__ == "__main__":
    main()
