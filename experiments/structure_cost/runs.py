"""How long does an event take, does anybody stand still meanwhile, and how fast is the network afterwards?

Every function trains a network with a thread for each stage and returns what its trace says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from dni import At, Event, PruneUnits, Share, TrueGradient
from experiments.spans import Span, read_trace
from experiments.structure_cost.kinds import events, kind_at, kinds, last_step
from experiments.structure_cost.networks import NETWORKS, Network, sources
from pipeline import Adam, Config, Data, KeyedBatches, Sgd, prepare, run_threaded

__all__ = ["OPTIMIZERS", "events_ms", "halved", "longest_gap_ms", "standing_still"]

OPTIMIZERS: Mapping[str, Adam | Sgd] = {"SGD, momentum": Sgd(lr=1e-3, momentum=0.9), "Adam": Adam(lr=1e-4)}
_WARM_UP = 3
"""Steps that are not timed."""


def events_ms(name: str, optimizer: str, *, batch_size: int) -> list[dict[str, Any]]:
    """For each kind of event the milliseconds it takes each stage concerned, of one run.

    The gradient is the true one and a single microbatch is under way, so while a stage changes, at most the one below
    computes: each has a core.
    """
    network = NETWORKS[name]
    own = kinds(network)
    config = _config(
        network, optimizer, planned=events(own), steps=last_step(own) + 3, batch_size=batch_size, in_flight=1
    )
    spans, _ = _run(config)
    found: dict[str, dict[str, float]] = {kind: {} for kind in own}
    for stage, each in enumerate(spans):
        for span in each:
            if span.operation == "C":
                took = found[kind_at(span.step, own)]
                took[str(stage)] = round(took.get(str(stage), 0.0) + 1e3 * (span.end_s - span.start_s), 2)
    return [{"kind": kind, "stages_ms": took} for kind, took in found.items()]


def standing_still(name: str, *, batch_size: int) -> dict[str, Any]:
    """The longest that any other stage does nothing while one changes, and without events in times as long.

    Stages learn from synthetic gradients and take what is there; what is under way has no bound. A stage has more to
    do than the one below it, so there is always something for it to take.
    """
    network = NETWORKS[name]
    own = kinds(network)
    runs = []
    for planned in ((), events(own)):
        config = _config(network, "Adam", planned=planned, steps=last_step(own) + 8, batch_size=batch_size, in_flight=0)
        runs.append(_run(config))
    (still, _), (changing, stages) = runs
    windows = [
        (stage, span) for stage, spans in enumerate(changing) for span in spans if span.operation == "C" and span.step
    ]
    with_events = [
        longest_gap_ms(changing[other], window.start_s, window.end_s)
        for stage, window in windows
        for other in range(len(changing))
        if other != stage
    ]
    without = [
        longest_gap_ms(spans, start.start_s, start.start_s + window.end_s - window.start_s)
        for _, window in windows
        for other, spans in enumerate(still)
        for start in still[other - 1][_WARM_UP * 3 :: 7]
    ]
    seen, usual = ([gap for gap in gaps if gap is not None] for gaps in (with_events, without))
    return {
        "events": len(windows),
        "window_ms": round(median(1e3 * (window.end_s - window.start_s) for _, window in windows), 2),
        "median_gap_ms": round(median(seen), 2),
        "largest_gap_ms": round(max(seen), 2),
        "median_gap_without_ms": round(median(usual), 2),
        "largest_gap_without_ms": round(max(usual), 2),
        "steps_lost": sum(stage["dropped"] + stage["too_stale"] for stage in stages)
        + sum(config.steps - sum(span.operation == "U" for span in spans) for spans in changing),
    }


def longest_gap_ms(spans: Sequence[Span], start_s: float, end_s: float) -> float | None:
    """The longest that a stage did nothing, of all such times that began or lasted between two points in time.

    None: it had not begun by then, or has finished.
    """
    if not spans[0].start_s < start_s < end_s < spans[-1].end_s:
        return None
    gaps = (
        later.start_s - earlier.end_s
        for earlier, later in pairwise(spans)
        if earlier.end_s < end_s and later.start_s > start_s
    )
    return 1e3 * max(gaps, default=0.0)


def halved(name: str, optimizer: str, *, batch_size: int, steps: int) -> dict[str, Any]:
    """Milliseconds of a step, forward, backward and update of all stages, before and after half of all units go."""
    network = NETWORKS[name]
    due = _WARM_UP + steps
    event = Event(At(due), PruneUnits(layers=network.hidden, amount=Share(0.5)))
    total = due + 1 + _WARM_UP + steps + 1
    config = _config(network, optimizer, planned=(event,), steps=total, batch_size=batch_size, in_flight=1)
    spans, _ = _run(config)
    before = _step_ms(spans, range(_WARM_UP, due))
    after = _step_ms(spans, range(due + 1 + _WARM_UP, total - 1))
    return {"before_ms": round(before, 3), "after_ms": round(after, 3), "faster": round(before / after, 3)}


def _step_ms(spans: Sequence[Sequence[Span]], steps: Sequence[int]) -> float:
    took = dict.fromkeys(steps, 0.0)
    for each in spans:
        for span in each:
            if span.operation in "FBU" and span.step in took:
                took[span.step] += 1e3 * (span.end_s - span.start_s)
    return median(took.values())


def _config(
    network: Network, optimizer: str, *, planned: Sequence[Event], steps: int, batch_size: int, in_flight: int
) -> Config:
    """A run with one microbatch under way, or decoupled with any number of them (0)."""
    return Config(
        model=network.make,
        at=network.at,
        data=lambda: Data(train=KeyedBatches(*network.data(8 * batch_size), batch_size=batch_size)),
        loss=nn.CrossEntropyLoss(),
        optimizer=OPTIMIZERS[optimizer],
        events=tuple(planned),
        steps=steps,
        log_every=steps + 1,  # the trace is written at the end, not between
        measure_every=0,
        executor="threads",
        device="cpu",
        source=TrueGradient() if in_flight else sources(network),
        arrival="ready",
        max_in_flight=(in_flight or steps,),
    )


def _run(config: Config) -> tuple[list[list[Span]], list[dict[str, Any]]]:
    """The traces of its stages, and their entries of the summary."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_threaded(prepare(config), folder=Path(folder))
        stages = result.summary["stages"]
        return [read_trace(Path(folder), index) for index in range(len(stages))], stages
