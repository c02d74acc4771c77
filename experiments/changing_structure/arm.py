"""What is compared with what?

An arm is one way to train a network; a family is the arms that answer one question. Some of its arms are controls; the
others stand in groups, of each of which the best is a finalist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from dni import Cosine, Event, Schedule
from experiments.changing_structure.sites import EPOCHS, TASKS, Site, Task

__all__ = ["CUT", "Arm", "Family"]

CUT = ("layer2", "layer4")
"""Layers at which a stage begins, after the first."""


def _no_events(site: Site) -> tuple[Event, ...]:
    return ()


def _falling(site: Site) -> Schedule:
    return Cosine(total=site.steps)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train a network."""

    title: str
    network: Callable[[Site], nn.Sequential]
    events: Callable[[Site], tuple[Event, ...]] = _no_events
    schedule: Callable[[Site], Schedule] = _falling
    """Of the learning rate: by default it falls to 0 along half a cosine."""
    rate_of: str = ""
    """The arm whose learning rate it has; empty: its own, chosen from the grid."""
    at: tuple[str, ...] = CUT
    """Where the network is cut. With true gradients it makes no difference to what is learned."""
    epochs: int = EPOCHS
    """Of a run, where samples are equal; more are said so in the title."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One question."""

    title: str
    question: str
    baseline: str
    """The arm that the others are compared with."""
    controls: tuple[str, ...]
    """The baseline, and what else is always a finalist."""
    groups: Mapping[str, tuple[str, ...]]
    """Of each the best is a finalist."""
    tasks: tuple[Task, ...] = TASKS
    lengths: tuple[str, ...] = ("samples",)
    """What is equal, see LENGTHS: samples, or also FLOPs."""
    dearest: str = ""
    """The arm that spends as many FLOPs as the others are given, where these are equal."""

    @property
    def arms(self) -> tuple[str, ...]:
        """All of them, in the order of the tables."""
        return (*self.controls, *(arm for group in self.groups.values() for arm in group))

    def group_of(self, arm: str) -> str:
        """The name of its group; empty for a control."""
        return next((name for name, group in self.groups.items() if arm in group), "")
