"""How does a very long chain spend its time? The simulation of `pipeline.virtual_time.simulator`, all stages at once.

In fixed order, and where all stages run the same method, the order in which a stage takes its turns is known: it takes
microbatch s right after the gradient of microbatch s - d, d being its bound. So times follow one from another:

    forward(i, s)   starts when stage i is free, and forward(i - 1, s) has arrived
    backward(i, s)  starts when stage i is free, and backward(i + 1, s) has arrived

For one s the stages are a chain of "the later of two, plus a cost", which is a running maximum (`_chained`); so a
microbatch costs a few operations on arrays as long as the chain, however deep the dependencies.

Letters: S stages, W microbatches of a window. A window is what lies between two updates, if updates wait until nothing
is held; else it is the whole run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import groupby
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.configuration.prepared import Prepared
from pipeline.stages.trace import Event
from pipeline.virtual_time.costs import CostModel, jitter
from pipeline.virtual_time.timing import Timing

__all__ = ["recur", "why_not_recursive"]

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

_MOST_EVENTS = 4000
"""Events kept of a stage that is to be drawn."""


def why_not_recursive(prepared: Prepared) -> str | None:
    """What keeps a run from being computed here; None if nothing does."""
    config, waits = prepared.config, prepared.waits
    periods = (config.evaluate_every, config.checkpoint_every)
    reasons = {
        "arrival is ready": config.arrival != "fixed",
        "there is one stage": not waits,
        "some boundaries wait for the gradient and some do not": len(set(waits)) > 1,
        "a source asks for the error at the output": bool(prepared.listeners),
        "a stage has synthetic inputs": bool(prepared.input_listeners),
        "it syncs": config.syncs,
        "stages are on different clocks (send_every)": any(every > 1 for every in config.send_every),
        "cadences differ": len(set(config.cadence)) > 1,
        "blocks have cadences of their own": bool(config.blocks),
        "not everything learns at every step": config.participation is not None,
        "steps are left out (update_probability)": any(p < 1.0 for p in config.update_probability),
        "gradients may be too stale to be used": config.max_staleness is not None and config.at_max_staleness == "drop",
        "stages are paused": bool(config.costs.pauses),
        "it is drained in between": any(0 < period < config.steps for period in periods),
        "the last stage defers": config.prefer == "activations" and config.stash == "hold" and not all(waits),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def recur(
    prepared: Prepared,
    costs: CostModel,
    *,
    drawn: Collection[int] = (),
    on_step: Callable[[int], None] = lambda step: None,
) -> Timing:
    """Time a run for which `why_not_recursive` says nothing.

    Args:
        prepared: the run.
        costs: with the bytes of its boundaries.
        drawn: stages whose operations are kept, for a picture.
        on_step: called with the number of microbatches that have gone up.
    """
    return _Recursion(prepared, costs, drawn=drawn).run(on_step)


class _Recursion:
    """When each stage is free, and when the gradients it has not handled yet arrived; see `recur`."""

    def __init__(self, prepared: Prepared, costs: CostModel, *, drawn: Collection[int]) -> None:
        config, plans, num_stages = prepared.config, prepared.plans, prepared.num_stages
        self._costs = costs
        self._means = costs.means(num_stages)
        self._transfer_s = costs.transfer_s(num_stages)
        self._steps, self._period = config.steps, config.cadence[0]
        self._late = all(prepared.waits)
        """Whether stages hold every microbatch until its gradient comes."""
        self._flushes = self._late and config.stash == "hold"
        self._recomputes = self._late and config.stash == "recompute"
        defers = self._flushes and config.prefer == "activations"
        self._delay = np.array([*prepared.bounds, prepared.bounds[-1] if defers else 0])
        """(S,), like those below; 0: the last stage, which handles no gradient."""
        self._at_once = np.array([plan.source_acts and not self._late for plan in plans])
        """Whether a microbatch is pulled back right after its forward."""
        self._at_once[-1] = not defers
        alone = np.array([awaited.learns_alone for awaited in prepared.awaited])
        self._learns_alone = alone & (not self._late)
        """Whether the source learns right after the backward."""
        self._learns = np.array([bool(awaited.to_learn) for awaited in prepared.awaited]) | (alone & self._late)
        """Whether it learns when the gradient comes, as all do for which the stage waits anyway."""
        self._answered = np.append((self._at_once[1:] | self._late) & prepared.wants, False)
        """Whether a gradient comes from above, not only a credit."""
        self._updates = np.array([plan.num_parameters > 0 for plan in plans]) & (self._at_once | self._late)
        self._runs = _runs_of_equal(self._delay)
        self._alone = np.setdiff1d(
            np.flatnonzero(self._delay), [i for low, high in self._runs for i in range(low, high)]
        )
        """Stages whose gradient comes from a microbatch that was handled before, as bounds differ."""

        self._free_s = np.zeros(num_stages)
        self._worked_s = np.zeros(num_stages)
        """The end of the last operation."""
        self._busy_s = np.zeros(num_stages)
        self._version = np.zeros(num_stages, dtype=np.int64)
        self._up_s, self._down_s = np.zeros(num_stages - 1), np.zeros(num_stages - 1)
        """(S - 1,): when the last message arrived at the other end of each boundary."""
        self._arrived_s = np.zeros((0, 0))
        """(W, S), or a ring of as many rows as are needed at a time: when the gradient of a microbatch arrived."""
        self._version_at = np.zeros((0, 0), dtype=np.int64)
        """The same for the version at the forward."""
        self._stale_sum, self._stale_max = np.zeros(num_stages), np.zeros(num_stages)
        self._stale_count = np.zeros(num_stages)
        self._done_s: list[float] = []
        self._events: dict[int, list[Event]] = {index: [] for index in drawn}

    def run(self, on_step: Callable[[int], None]) -> Timing:
        """Play all windows."""
        size = self._period if self._flushes else self._steps
        for first in range(0, self._steps, size):
            count = min(size, self._steps - first)
            # A drain follows the last microbatch; if an update is due, it comes when all is over anyway.
            self._play(first, count, drains=not self._flushes or count < size, on_step=on_step)
        if self._steps % self._period:
            self._update(np.flatnonzero(self._updates), self._steps - 1)
        most_held = np.minimum(self._delay, min(size, self._steps)) * self._late
        return Timing(
            end_s=float(self._worked_s.max()),
            done_s=np.array(self._done_s),
            busy_s=self._busy_s,
            dropped_s=np.zeros_like(self._busy_s),
            forwards=np.full(len(most_held), self._steps),
            backwards=np.where(self._at_once | self._late, self._steps, 0),
            updates=self._version,
            most_held=most_held,
            staleness_mean=_divided(self._stale_sum, self._stale_count),
            staleness_max=np.where(self._stale_count > 0, self._stale_max, np.nan),
            events=self._events,
        )

    def _play(self, first: int, count: int, *, drains: bool, on_step: Callable[[int], None]) -> None:
        """One window: microbatches and, `delay` later, their gradients; then the gradients that are left."""
        rows = count if self._late else min(count, int(self._delay.max()))
        self._arrived_s = np.zeros((rows, len(self._free_s)))
        self._version_at = np.zeros((rows, len(self._free_s)), dtype=np.int64)
        last = count if drains else count - 1
        for turn in range(last + 1):
            self._handle_gradients(first, turn)
            if turn < count:
                self._forward(first + turn, turn % rows)
                on_step(first + turn + 1)
            else:
                self._pass_drain_on()
        for position in range(count):
            left = np.flatnonzero(self._delay > last - position)
            if self._late and len(left):
                self._pull_back_chain(int(left[-1]), 0, first, position)
            else:
                self._learn_late(left, first, np.full(len(left), position))

    def _handle_gradients(self, first: int, turn: int) -> None:
        """The gradients whose turn comes before microbatch `turn` of the window."""
        if not self._late:
            due = np.flatnonzero((self._delay > 0) & (self._delay <= turn))
            self._learn_late(due, first, turn - self._delay[due])
            return
        due = self._alone[self._delay[self._alone] <= turn]
        self._pull_back_each(due, first, turn - self._delay[due])
        for low, high in self._runs:
            if self._delay[low] <= turn:
                self._pull_back_chain(high - 1, low, first, turn - int(self._delay[low]))

    def _forward(self, step: int, row: int) -> None:
        """A microbatch on its way up, pulled back at once where that is the method."""
        stages = np.arange(len(self._free_s))
        forward_s, latency_s = self._cost("F", stages, step), self._latency("up", stages[:-1], step)
        ends = _chained(self._free_s, forward_s, latency_s=latency_s, free_s=self._up_s, transfer_s=self._transfer_s)
        self._up_s = np.maximum(ends[:-1] + latency_s, self._up_s) + self._transfer_s
        self._version_at[row] = self._version
        self._worked("F", stages, step, ends - forward_s, ends)
        pulled = stages[self._at_once]
        if len(pulled):
            starts, ends = ends[pulled], ends.copy()
            ends[pulled] += self._cost("B", pulled, step)
            self._worked("B", pulled, step, starts, ends[pulled])
        if self._at_once[-1]:
            self._done_s.append(float(ends[-1]))
        else:
            self._arrived_s[row, -1] = ends[-1]
        answering = pulled if self._late else stages  # without a gradient it is a credit
        self._answer(answering, step, np.full(len(answering), row), ends[answering])
        self._free_s = ends
        self._run_learning(stages[self._learns_alone], step)
        if (step + 1) % self._period == 0:
            self._update(pulled[self._updates[pulled]], step)

    def _pass_drain_on(self) -> None:
        stages = np.arange(len(self._free_s))
        latency_s = self._latency("up", stages[:-1], self._steps)
        nothing = np.zeros(len(stages))
        self._free_s = _chained(self._free_s, nothing, latency_s=latency_s, free_s=self._up_s, transfer_s=nothing[:-1])

    def _learn_late(self, stages: Integers, first: int, positions: Integers) -> None:
        """The gradients of microbatches that were pulled back long ago: sources learn."""
        rows = positions % max(len(self._arrived_s), 1)
        self._free_s[stages] = np.maximum(self._free_s[stages], self._arrived_s[rows, stages])
        self._learn(stages, first + positions, rows)

    def _pull_back_each(self, stages: Integers, first: int, positions: Integers) -> None:
        """A gradient each, of microbatches that have been pulled back above before."""
        if len(stages) == 0:
            return
        steps = first + positions
        starts = np.maximum(self._free_s[stages], self._arrived_s[positions, stages])
        self._pulled_back(stages, steps, positions, starts + self._backward(stages, steps))

    def _pull_back_chain(self, high: int, low: int, first: int, position: int) -> None:
        """The gradient of one microbatch down from stage `high` to `low`."""
        stages = np.arange(high, low - 1, -1)
        steps = np.full(len(stages), first + position)
        ready_s = self._free_s[stages]
        ready_s[0] = max(ready_s[0], self._arrived_s[position, high])
        between = stages[:-1] - 1
        ends = _chained(
            ready_s,
            self._backward(stages, steps),
            latency_s=self._latency("down", between, first + position),
            free_s=self._down_s[between],
            transfer_s=self._transfer_s[between],
        )
        self._pulled_back(stages, steps, np.full(len(stages), position), ends)

    def _backward(self, stages: Integers, steps: Integers) -> Floats:
        backward_s = self._cost("B", stages, steps)
        return backward_s + self._cost("R", stages, steps) if self._recomputes else backward_s

    def _pulled_back(self, stages: Integers, steps: Integers, positions: Integers, ends: Floats) -> None:
        """What follows a backward from above: the answer, the source's learning, the update."""
        backward_s = self._cost("B", stages, steps)
        if self._recomputes:
            forward_s = self._cost("R", stages, steps)
            self._worked("R", stages, steps, ends - backward_s - forward_s, ends - backward_s)
        self._worked("B", stages, steps, ends - backward_s, ends)
        self._free_s[stages] = ends
        if stages[0] == len(self._free_s) - 1:
            self._done_s.append(float(ends[0]))
        self._answer(stages, steps, positions, ends)
        self._learn(stages, steps, positions)
        due = self._updates[stages] & ((steps + 1) % self._period == 0)
        self._update(stages[due], steps[due])

    def _answer(self, stages: Integers, steps: int | Integers, rows: Integers, sent_s: Floats) -> None:
        """Gradients, or credits, on their way to the stages below."""
        above = stages > 0
        boundaries, rows, sent_s = stages[above] - 1, rows[above], sent_s[above]
        counts = steps[above] if isinstance(steps, np.ndarray) else steps
        transfer_s = np.where(self._answered[boundaries], self._transfer_s[boundaries], 0.0)
        arrived_s = np.maximum(sent_s + self._latency("down", boundaries, counts), self._down_s[boundaries])
        self._down_s[boundaries] = self._arrived_s[rows, boundaries] = arrived_s + transfer_s

    def _learn(self, stages: Integers, steps: Integers, rows: Integers) -> None:
        """A gradient is used: how late it is, and the learning of sources that learn."""
        used = self._answered[stages]
        stages, steps, rows = stages[used], steps[used], rows[used]
        stale = self._version[stages] - self._version_at[rows, stages]
        self._stale_sum[stages] += stale
        self._stale_max[stages] = np.maximum(self._stale_max[stages], stale)
        self._stale_count[stages] += 1
        learning = self._learns[stages]
        self._run_learning(stages[learning], steps[learning])

    def _run_learning(self, stages: Integers, steps: int | Integers) -> None:
        starts = self._free_s[stages]
        self._free_s[stages] += self._cost("L", stages, steps)
        self._worked("L", stages, steps, starts, self._free_s[stages])

    def _update(self, stages: Integers, steps: int | Integers) -> None:
        starts = self._free_s[stages]
        self._free_s[stages] += self._cost("U", stages, self._version[stages])
        self._version[stages] += 1
        self._worked("U", stages, steps, starts, self._free_s[stages])

    def _cost(self, operation: str, stages: Integers, counts: int | Integers) -> Floats:
        mean_s, costs = self._means[operation][stages], self._costs
        if not costs.jitter:
            return mean_s
        return mean_s * jitter(costs.jitter, seed=costs.seed, name=operation, index=stages, count=counts)

    def _latency(self, name: str, boundaries: Integers, counts: int | Integers) -> Floats:
        costs = self._costs
        if not costs.message_jitter:
            return np.full(len(boundaries), costs.message_s)
        return costs.message_s * jitter(
            costs.message_jitter, seed=costs.seed, name=name, index=boundaries, count=counts
        )

    def _worked(self, operation: str, stages: Integers, steps: int | Integers, starts: Floats, ends: Floats) -> None:
        """Take an operation down, for totals and pictures."""
        self._busy_s[stages] += ends - starts
        self._worked_s[stages] = ends
        if not self._events:
            return
        steps = np.broadcast_to(steps, stages.shape)
        for k in np.flatnonzero(np.isin(stages, list(self._events))):
            own = self._events[int(stages[k])]
            if len(own) < _MOST_EVENTS:
                own.append(Event(operation, int(steps[k]), float(starts[k]), float(ends[k]), 0, 0))


def _chained(ready_s: Floats, cost_s: Floats, *, latency_s: Floats, free_s: Floats, transfer_s: Floats) -> Floats:
    """When stages end that start one after another, each once it is ready and the message of the one before is there.

    Every stage and every way between two of them ends at e = max(e before + a, r) + b. With T the running sum of a + b
    that is e - T = max(e before - T before, r + b - T): a running maximum.

    Args:
        ready_s: when each stage is free, (n,).
        cost_s: what its operation takes, (n,).
        latency_s: of each way between two, (n - 1,).
        free_s: when the last message came in there, (n - 1,).
        transfer_s: what the bytes take, (n - 1,).

    Returns:
        The ends of the operations, (n,).
    """
    count = 2 * len(ready_s) - 1
    sums, offers = np.empty(count), np.empty(count)
    sums[::2], sums[1::2] = cost_s, latency_s + transfer_s
    offers[::2], offers[1::2] = ready_s + cost_s, free_s + transfer_s
    np.cumsum(sums, out=sums)
    ends: Floats = (sums + np.maximum.accumulate(offers - sums))[::2]
    return ends


def _runs_of_equal(delays: Integers) -> list[tuple[int, int]]:
    """Neighbouring stages with the same bound, at least two, as (first, one past the last)."""
    runs, low = [], 0
    for delay, members in groupby(delays.tolist()):
        high = low + len(list(members))
        if delay > 0 and high - low > 1:
            runs.append((low, high))
        low = high
    return runs


def _divided(sums: Floats, counts: Floats) -> Floats:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
