"""What is the best a method can do on given stages, and what does it keep and send?

Letters: S stages, M microbatches from one update to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.configuration.config import per_stage
from pipeline.configuration.prepared import Prepared
from pipeline.virtual_time.costs import CostModel
from pipeline.virtual_time.timing import Timing

__all__ = ["Bound", "fastest", "held_bytes", "own_seconds", "wire_bytes"]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What no run of a method can beat on the average, with messages that take no time on the way."""

    period_s: float
    """Seconds per microbatch of the feed."""
    reason: str
    """Why."""


def own_seconds(prepared: Prepared, costs: CostModel) -> NDArray[np.float64]:
    """(S,): what a microbatch of the feed costs each stage, its share of an update included.

    A stage on a slower clock takes a share of them, and what waits for the stages above happens at those that go on.
    """
    means = costs.means(prepared.num_stages)
    held = np.array([*prepared.waits, False])
    takes, pulls = 1.0 / np.array(prepared.takes_every), _pulls_back(prepared)
    told = np.isin(np.arange(prepared.num_stages), [listener.stage for listener in prepared.listeners])
    answered = np.append(pulls[1:] * prepared.wants, 0.0)
    apart = [awaited.learns_apart for awaited in prepared.awaited]
    late = np.where(apart, takes, np.maximum(answered, told * takes[-1]))
    late = np.where([bool(awaited.to_learn) for awaited in prepared.awaited], late, 0.0)
    learns = np.where([awaited.learns_alone for awaited in prepared.awaited], takes, late)
    updates = pulls * [plan.num_parameters > 0 for plan in prepared.plans]
    periods = np.array([prepared.mean_period(index) for index in range(prepared.num_stages)])
    again = held & (prepared.config.stash == "recompute")
    own: NDArray[np.float64] = (
        means["F"] * takes
        + np.where(again, means["R"] * pulls, 0.0)
        + means["B"] * pulls
        + means["L"] * learns
        + means["U"] * np.minimum(updates, takes / periods)
        + np.where(prepared.imagines, means["I"] + means["N"], 0.0)
    )
    return own


def _pulls_back(prepared: Prepared) -> NDArray[np.float64]:
    """(S,): of the feed's microbatches, the share that each stage pulls back."""
    takes, last = [1.0 / every for every in prepared.takes_every], prepared.num_stages - 1
    pulls = np.zeros(prepared.num_stages)
    for index in range(last, -1, -1):
        if index == last or prepared.awaited[index].acts_apart:
            acts = takes[index]
        elif prepared.waits[index]:
            acts = pulls[index + 1] if prepared.wants[index] else takes[-1]
        else:
            acts = takes[index + 1]
        waits = index < last and prepared.waits[index]
        pulls[index] = acts if waits or prepared.plans[index].source_acts else 0.0
    return pulls * [prepared.shares(index).pulls for index in range(prepared.num_stages)]


def fastest(prepared: Prepared, costs: CostModel) -> Bound:
    """The analytical bound of the method; syncs and drains only add to it.

    A stage has its own work to do. Where each stage waits for the next one's gradients, no more microbatches are in the
    chain than the first stage may have in flight, each for the time of all stages; and where updates wait until nothing
    is held, the chain is filled and emptied for each: (M + S - 1) / M times a stage's time, if stages are equal.
    """
    apart = ", syncs apart" if prepared.config.syncs else ""
    slowest = Bound(period_s=float(own_seconds(prepared, costs).max()), reason="the slowest stage" + apart)
    takes = prepared.takes_every
    transfer_s = float((costs.transfer_s(prepared.num_stages) / takes[1:]).max(initial=0.0))
    candidates = [slowest, Bound(period_s=transfer_s, reason="the slowest link")]
    beside = prepared.listeners or prepared.input_listeners
    sparse = prepared.config.participation is not None
    if prepared.waits and all(prepared.waits) and not (beside or sparse) and takes[-1] == 1:
        candidates += _bounds_of_waiting(prepared, costs)
    return max(candidates, key=lambda bound: bound.period_s)


def _bounds_of_waiting(prepared: Prepared, costs: CostModel) -> list[Bound]:
    config, means = prepared.config, costs.means(prepared.num_stages)
    work_s = means["F"] + means["B"] * [prepared.shares(index).pulls for index in range(prepared.num_stages)]
    if config.stash == "recompute":
        work_s[:-1] += means["R"][:-1]
    in_chain = prepared.bounds[0]
    one_by_one = "all stages, one after another"
    reason = one_by_one if in_chain == 1 else f"{in_chain} microbatches in the whole chain"
    bounds = [Bound(period_s=float(work_s.sum()) / in_chain, reason=reason)]
    if config.stash == "hold":
        num_microbatches = min(per_stage(config.cadence, prepared.num_stages, name="cadence"))
        if config.blocks or config.participation:  # windows differ
            return bounds
        below_s = np.cumsum(work_s) - work_s
        window_s = float((below_s + num_microbatches * work_s).max() + means["U"][0])
        reason = f"a chain filled and emptied every {num_microbatches} microbatches"
        bounds.append(
            Bound(period_s=window_s / num_microbatches, reason=one_by_one if num_microbatches == 1 else reason)
        )
    return bounds


def held_bytes(prepared: Prepared, timing: Timing) -> NDArray[np.float64]:
    """(S,): the most that each stage keeps of microbatches and of earlier weights at a time.

    One microbatch is always being worked on. A source that learns from what comes back needs the outputs until then. A
    correction keeps a velocity, and at an update the weights from before it.
    """
    plans, held = prepared.plans, timing.most_held
    graphs = np.array([plan.held_bytes for plan in plans], dtype=np.float64)
    waiting = np.zeros(len(plans))
    waiting[:-1] = [
        bound * plan.activation_bytes * bool(awaited.to_learn and not awaited.to_act)
        for bound, plan, awaited in zip(prepared.bounds, plans[:-1], prepared.awaited[:-1], strict=True)
    ]
    weights = np.array([plan.parameter_bytes for plan in plans], dtype=np.float64)
    rule, staleness = prepared.config.correction, [prepared.staleness(index) for index in range(len(plans))]
    total: NDArray[np.float64] = waiting if rule is None else waiting + 2 * weights * (np.array(staleness) > 0)
    if prepared.config.stash == "recompute":
        total = total + held * np.array([plan.input_bytes for plan in plans]) + graphs
    else:
        total = total + np.maximum(held, 1) * graphs
    if prepared.config.stash == "weights":
        periods = np.array([prepared.mean_period(index) for index in range(len(plans))])
        copies = np.minimum(held, -(-(held - 1) // periods) + 1)
        if rule is not None:  # each forward may have extrapolated weights of its own
            own = np.array([late > 0 and rule.ahead(1, staleness=late) != 0 for late in staleness])
            copies = np.where(own, held, copies)
        total = total + np.where(held > 0, copies, 0) * weights
    return total


def wire_bytes(prepared: Prepared, costs: CostModel, timing: Timing) -> NDArray[np.float64]:
    """(S - 1,): bytes over each boundary, both ways, in the whole run: activations up, and gradients down where the
    boundary's source makes anything of them (those that only syncs ask for are not counted)."""
    takes = np.array(prepared.takes_every)
    sent = timing.forwards[:-1] * takes[:-1] // takes[1:]
    gradients = timing.backwards[1:] * np.array(prepared.wants, dtype=np.float64)
    if prepared.config.participation is not None:
        wanted = [prepared.shares(index).wanted_below for index in range(1, prepared.num_stages)]
        gradients = timing.forwards[1:] * np.array(wanted)
    total: NDArray[np.float64] = (sent + gradients) * np.asarray(costs.message_bytes)
    return total
