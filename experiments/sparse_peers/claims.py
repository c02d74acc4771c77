"""What do the papers say of their rules, and what was found here?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from experiments.sparse_peers.config import NETS, SMALL, TASKS, Cell
from experiments.sparse_peers.results import Counted, Timing, differences, ratios, state_ratio
from experiments.sparse_peers.rules import RULES
from experiments.sparse_peers.tables import NOT_RUN

__all__ = ["CLAIMS", "Claim", "claims_table"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Of a paper, in its own setting."""

    paper: str
    text: str
    optimizer: str
    """With which ours is shown."""
    rules: tuple[str, ...]
    """Ours."""


CLAIMS = (
    Claim(
        paper="pLWS: Li & Banerjee 2021, abstract",
        text="back-propagation 2 to 5 times faster, generalises like vanilla SGD",
        optimizer="SGD",
        rules=("plws 0.1", "plws 0.3"),
    ),
    Claim(
        paper="FreezeOut: Brock et al. 2017, abstract",
        text="CIFAR: up to 20 % of the wall clock at a loss of 3 % (DenseNets), or at none (ResNets); nothing on VGG",
        optimizer="SGD",
        rules=("freezeout 0.5", "freezeout 0.8"),
    ),
    Claim(
        paper="LayerOut: Goutam et al. 2020, abstract",
        text="up to 70 % less computation in an epoch, up to 2 % more accurate (VGG-16, ResNet-110)",
        optimizer="SGD",
        rules=("layerout rising", "layerout falling"),
    ),
    Claim(
        paper="Multirate: Vlaar & Leimkuhler 2022, abstract",
        text="transfer learning in almost half the time, as accurate (only the head is fast)",
        optimizer="SGD",
        rules=("multirate drift", "multirate"),
    ),
    Claim(
        paper="BAdam: Luo et al. 2024, repository",
        text="fine-tuning: 2 M + 16 M / D GB (M: billions of parameters, D: blocks); MT-Bench 6.67, LoRA's 6.41",
        optimizer="Adam",
        rules=("badam",),
    ),
    Claim(
        paper="LISA: Pan et al. 2024, abstract",
        text="fine-tuning: MT-Bench 10 to 35 % above LoRA's",
        optimizer="Adam",
        rules=("lisa",),
    ),
)


def claims_table(own: Counted, timings: Sequence[Timing]) -> Iterator[str]:
    """A line for each rule of ours: points over full training from the worst task to the best, time, and state."""
    yield "| paper | what it says | here | points over full training | back-propagation | whole step | state |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for claim in CLAIMS:
        for index, rule in enumerate(claim.rules):
            head = f"{claim.paper} | {claim.text}" if index == 0 else " | "
            found = [ratios(timings, size=SMALL, net=net, optimizer=claim.optimizer, rule=rule) for net in NETS]
            backward, step = (
                ", ".join(NOT_RUN if each is None else f"{each[i]:.2f}" for each in found) for i in (0, 1)
            )
            title = f"{RULES[rule].title}, {claim.optimizer}"
            share = state_ratio(own, optimizer=claim.optimizer, rule=rule)
            state = NOT_RUN if share is None else f"{share:.2f}"
            yield f"| {head} | {title} | {_points(own, claim.optimizer, rule)} | {backward} | {step} | {state} |"


def _points(own: Counted, optimizer: str, rule: str) -> str:
    found = [differences(own, Cell(SMALL, task, optimizer, rule)).values() for task in TASKS]
    means = [fmean(each) for each in found if each]
    return f"{min(means):+.2f} to {max(means):+.2f}" if means else NOT_RUN
