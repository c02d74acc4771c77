"""Are all jobs carried out, their results handed over, and failures named?"""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from experiments.jobs import Tell, carry_out, carry_out_in_parts


def measure(job: int) -> tuple[int, int]:
    if job == 2:
        raise ValueError("job [2] cannot be done")
    return job, torch.get_num_threads()


def work(job: int, tell: Tell) -> None:
    tell(3)
    tell(f"the first of {job}")
    tell((job, "early"))
    if job == 1:
        raise RuntimeError("broke off")
    tell((job, "late"))


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_jobs_that_fail_are_named_and_do_not_end_the_others(console: Console) -> None:
    found: list[tuple[int, int]] = []
    code = carry_out(
        [1, 2, 3], measure, name=lambda job: f"job {job}", on_result=found.append, num_workers=1, console=console
    )
    assert code == 1 and found == [(1, 1), (3, 1)]
    assert text_of(console).endswith("job 2: ValueError: job [2] cannot be done\n")
    assert "in measure" in text_of(console) and "2/3" in text_of(console)


def test_what_a_job_told_before_it_failed_is_handed_over(console: Console) -> None:
    found: list[tuple[int, str]] = []
    code = carry_out_in_parts(
        *([0, 1], work), parts="parts", num_parts=8, name=str, on_result=found.append, num_workers=1, console=console
    )
    assert code == 1 and found == [(0, "early"), (0, "late"), (1, "early")]
    assert "8/8" in text_of(console) and text_of(console).endswith("1: RuntimeError: broke off\n")


def test_without_jobs_nothing_is_started(console: Console) -> None:
    assert carry_out([], measure, name=str, on_result=print, num_workers=0, console=console) == 0
    assert text_of(console) == ""
