"""How would a run spend its time, if every stage had its own device? Played, or computed, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, choose_device, make_feed, make_inbox
from pipeline.executors.session import threads
from pipeline.randomness.keyed import undisturbed
from pipeline.stages.stage import Stage
from pipeline.virtual_time.costs import CostModel, virtual_clock
from pipeline.virtual_time.recursion import recur, why_not_recursive
from pipeline.virtual_time.simulator import simulate
from pipeline.virtual_time.timed import build_timed_stage, make_timed_feed
from pipeline.virtual_time.timing import StageWatch, Timing

__all__ = ["Rehearsal", "Way", "choose_way", "rehearse"]

Way: TypeAlias = Literal["stages", "recursion", "mathematics"]
"""The stages with learners that only take time; the timing recursion; or the stages as they are."""

_LARGE = 200_000
"""Stages times steps from which on the recursion is used: played, they would take ten seconds or so."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """A run in virtual time."""

    prepared: Prepared
    costs: CostModel
    """With the bytes of every boundary."""
    way: Way
    timing: Timing
    loss: float | None = None
    """With mathematics: the mean of the last microbatches."""


def choose_way(prepared: Prepared) -> Way:
    """The recursion for what is large and lets itself be computed; else the stages, without mathematics."""
    large = prepared.num_stages * prepared.config.steps >= _LARGE
    return "recursion" if large and why_not_recursive(prepared) is None else "stages"


def rehearse(
    prepared: Prepared,
    *,
    way: Way,
    drawn: Collection[int] = (),
    on_step: Callable[[int], None] = lambda step: None,
) -> Rehearsal:
    """Run in virtual time; nothing is written.

    Args:
        prepared: the run.
        way: by what means.
        drawn: stages whose first operations are kept, for a picture.
        on_step: called with the number of microbatches that have entered.
    """
    *measured, output_bytes = [plan.activation_bytes for plan in prepared.plans]
    costs = prepared.config.costs.with_bytes(measured, error=output_bytes, input=prepared.plans[0].input_bytes)
    if way == "recursion":
        timing = recur(prepared, costs, drawn=drawn, on_step=on_step)
        return Rehearsal(prepared=prepared, costs=costs, way=way, timing=timing)
    clock = virtual_clock(costs, num_stages=prepared.num_stages)
    indices = range(prepared.num_stages)
    with threads(prepared.config.num_threads), undisturbed():
        if way == "mathematics":
            device = choose_device(prepared.config.device)
            stages = [build_stage(prepared, index, clock=clock, device=device) for index in indices]
            feed = make_feed(prepared)
        else:
            stages = [build_timed_stage(prepared, index, clock=clock) for index in indices]
            feed = make_timed_feed(prepared)
        watch = StageWatch(stages, drawn=drawn)

        def look(stage: Stage) -> None:
            watch.look(stage)
            if stage.index == 0:
                on_step(feed.stopped_at)

        simulate(
            stages,
            feed.messages(),
            inboxes=[make_inbox(prepared, index) for index in indices],
            clock=clock,
            costs=costs,
            on_drained=lambda stage, drain: None,
            on_turn=look,
        )
    return Rehearsal(prepared=prepared, costs=costs, way=way, timing=watch.timing(), loss=watch.loss())
