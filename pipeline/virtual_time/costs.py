"""How long do operations and messages take in virtual time?

A mean per operation and stage; beside it what makes machines uneven: stragglers, jitter, pauses, and links with a
latency and a bandwidth. Jitter is keyed by (seed, operation, stage, how many the stage has done before), so that what
is drawn does not depend on the order in which stages take their turns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.clock import VirtualClock
from pipeline.errors import ConfigurationError
from pipeline.randomness.keyed import key

__all__ = ["OPERATIONS", "CostModel", "jitter", "jitters", "measured_costs", "virtual_clock"]

OPERATIONS = {
    "F": "forward_s",
    "R": "forward_s",
    "B": "backward_s",
    "L": "learn_s",
    "U": "update_s",
    "I": "input_s",
    "N": "input_s",
    "C": "change_s",
}
"""What the operations of the trace cost: the field of `CostModel`. R is a forward run again; a synthetic input is made
(I) and learned (N)."""

_BLOCK = 256
"""Draws made at once."""


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Virtual seconds for each operation of every stage and for each message between two stages."""

    forward_s: float | tuple[float, ...] = 1.0
    """Mean seconds of a forward, also of one run again for its backward; one number, or one per stage. So are the
    next five."""
    backward_s: float | tuple[float, ...] = 2.0
    """The estimate included."""
    learn_s: float | tuple[float, ...] = 0.5
    """The source's own learning."""
    update_s: float | tuple[float, ...] = 0.1
    input_s: float | tuple[float, ...] = 0.5
    """Of a synthetic input: to make it, and again to learn from the one it stands for."""
    change_s: float | tuple[float, ...] = 0.1
    """Of a change of structure, in each stage concerned."""
    message_s: float = 0.01
    """Latency of a message from one stage to the next."""
    bytes_per_s: float = math.inf
    """Bandwidth between two stages, each way; an activation or a gradient takes its bytes' time besides the latency."""
    message_bytes: tuple[int, ...] = ()
    """Bytes of an activation, and of the gradient that answers it. One number, or one per boundary; empty: as measured
    on the first batch."""
    error_bytes: int = 0
    """Bytes of the error at the network's output, which some sources ask for; 0: as measured on the first batch."""
    input_bytes: int = 0
    """Bytes of the network's input, which stages with synthetic inputs are sent; 0: as measured on the first batch."""
    slow: tuple[tuple[int, float], ...] = ()
    """Stragglers: (stage, factor of all its operations)."""
    pauses: tuple[tuple[int, float, float], ...] = ()
    """Seconds in which a stage stands still, even in the middle of an operation: (stage, from, for)."""
    jitter: float = 0.0
    """Standard deviation of the logarithm of an operation's seconds (lognormal; the mean stays)."""
    message_jitter: float = 0.0
    """The same of a message's latency; messages of a boundary stay in order."""
    seed: int = 0
    """Of the jitter."""

    def __post_init__(self) -> None:
        for name in (*dict.fromkeys(OPERATIONS.values()), "message_s", "jitter", "message_jitter"):
            value = getattr(self, name)
            if not all(0 <= number < math.inf for number in (value if isinstance(value, tuple) else (value,))):
                raise ConfigurationError(f"costs.{name} must be at least 0 and finite, got {value}.")
        if not self.bytes_per_s > 0:
            raise ConfigurationError(f"costs.bytes_per_s must be positive (inf: no limit), got {self.bytes_per_s}.")
        if any(number < 0 for number in (*self.message_bytes, self.error_bytes, self.input_bytes)):
            raise ConfigurationError(
                "costs.message_bytes, error_bytes and input_bytes must be at least 0, got "
                f"{self.message_bytes}, {self.error_bytes}, {self.input_bytes}."
            )
        if any(not 0 < factor < math.inf for _, factor in self.slow):
            raise ConfigurationError(f"costs.slow takes (stage, factor above 0) pairs, got {self.slow}.")
        if any(not (at_s >= 0 and 0 <= for_s < math.inf) for _, at_s, for_s in self.pauses):
            raise ConfigurationError(
                f"costs.pauses takes (stage, from, for) with seconds from 0 on, got {self.pauses}."
            )

    def check(self, num_stages: int) -> None:
        """Raise `ConfigurationError` if this does not fit a chain of `num_stages`."""
        self.means(num_stages)
        self.with_bytes((1,)).transfer_s(num_stages)
        for name, entries in (("slow", self.slow), ("pauses", self.pauses)):
            for stage, *_ in entries:
                if not 0 <= stage < num_stages:
                    raise ConfigurationError(
                        f"costs.{name} names stage {stage}, but the stages are 0 to {num_stages - 1}."
                    )

    def operation_s(self, stage: int, operation: str) -> float:
        """Mean seconds of an operation of a stage, one of `OPERATIONS`."""
        value: float | tuple[float, ...] = getattr(self, OPERATIONS[operation])
        mean_s = value if not isinstance(value, tuple) else value[stage if len(value) > 1 else 0]
        return mean_s * math.prod(factor for slow, factor in self.slow if slow == stage)

    def means(self, num_stages: int) -> dict[str, NDArray[np.float64]]:
        """Mean seconds of every operation, (S,) for each."""
        factors = np.ones(num_stages)
        for stage, factor in self.slow:
            if 0 <= stage < num_stages:
                factors[stage] *= factor
        return {
            operation: _one_each(getattr(self, field), num_stages, name=field, of="stage") * factors
            for operation, field in OPERATIONS.items()
        }

    def transfer_s(self, num_stages: int) -> NDArray[np.float64]:
        """Seconds that the bytes of an activation, or of a gradient, take at each boundary, (S - 1,)."""
        if math.isinf(self.bytes_per_s):
            return np.zeros(num_stages - 1)
        if not self.message_bytes:
            raise ConfigurationError("costs.bytes_per_s needs costs.message_bytes: how much there is to send.")
        return _one_each(self.message_bytes, num_stages - 1, name="message_bytes", of="boundary") / self.bytes_per_s

    def with_bytes(self, measured: Sequence[int], *, error: int = 0, input: int = 0) -> CostModel:
        """This model with the bytes of each boundary, of the error at the output and of the network's input, as
        measured, unless it says them itself."""
        return replace(
            self,
            message_bytes=self.message_bytes or tuple(measured),
            error_bytes=self.error_bytes or error,
            input_bytes=self.input_bytes or input,
        )


def virtual_clock(costs: CostModel, *, num_stages: int) -> VirtualClock:
    """A clock by which the operations of a chain take what `costs` says."""
    costs.check(num_stages)
    means = {operation: values.tolist() for operation, values in costs.means(num_stages).items()}
    draws: dict[tuple[int, str], Iterator[float]] = {}

    def mean_s(stage: int, operation: str) -> float:
        seconds: float = means[operation][stage]
        return seconds

    def drawn_s(stage: int, operation: str) -> float:
        own = draws.get((stage, operation))
        if own is None:
            own = draws[stage, operation] = jitters(costs.jitter, seed=costs.seed, name=operation, index=stage)
        return mean_s(stage, operation) * next(own)

    return VirtualClock(drawn_s if costs.jitter else mean_s, pauses=costs.pauses)


def jitters(sigma: float, *, seed: int, name: str, index: int) -> Iterator[float]:
    """The factors of `jitter`, one after another without end."""
    start = 0
    while True:
        yield from jitter(sigma, seed=seed, name=name, index=index, count=np.arange(start, start + _BLOCK)).tolist()
        start += _BLOCK


def jitter(
    sigma: float, *, seed: int, name: str, index: int | NDArray[Any], count: int | NDArray[Any]
) -> NDArray[np.float64]:
    """Lognormal factors of mean 1, a function of what they belong to alone.

    A hash of (seed, name, index, count) gives two uniform numbers, these a normal one (Box-Muller). Source of the hash:
    Steele et al. 2014, SplitMix64. Rounded, so that what a machine's own exp and log do in the last digit is not seen.

    Args:
        sigma: standard deviation of the logarithm.
        seed: of all draws.
        name: the operation or direction.
        index: the stage or boundary; an array is broadcast against `count`.
        count: how many were drawn before under that name and index.
    """
    base = np.full(1, key(seed, f"costs/{name}", 0), dtype=np.uint64)
    stream = _mixed(base + np.asarray(index).astype(np.uint64) * _GOLDEN)
    bits = _mixed(stream + np.asarray(count).astype(np.uint64) * _GOLDEN)
    first, second = (((b >> np.uint64(11)) + np.uint64(1)) * 2.0**-53 for b in (bits, _mixed(bits + _GOLDEN)))
    normal = np.sqrt(-2.0 * np.log(first)) * np.cos(2.0 * np.pi * second)
    factors: NDArray[np.float64] = np.round(np.exp(sigma * normal - sigma**2 / 2), 6)
    return factors


def measured_costs(costs: CostModel, stages: Sequence[Mapping[str, Any]]) -> CostModel:
    """`costs` with each stage's mean seconds per operation as a run measured them: the stages of its summary.json.

    What a stage never did in that run costs what the others' mean is, or else what `costs` says.

    Raises:
        ConfigurationError: the summary does not say what operations took.
    """
    if not all("operation_s" in stage for stage in stages):
        raise ConfigurationError("the run's summary does not say what operations took (operation_s); run it anew.")
    found: dict[str, Any] = {}
    for operation in ("F", "B", "L", "U", "I"):
        own = [stage["operation_s"].get(operation) for stage in stages]
        there = [seconds for seconds in own if seconds is not None]
        if there:
            mean_s = sum(there) / len(there)
            found[OPERATIONS[operation]] = tuple(mean_s if seconds is None else seconds for seconds in own)
    return replace(costs, **found)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _one_each(value: float | Sequence[float], count: int, *, name: str, of: str) -> NDArray[np.float64]:
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if len(numbers) not in (1, count):
        raise ConfigurationError(f"costs.{name} takes 1 number or {count} (one per {of}), got {len(numbers)}: {value}.")
    return np.broadcast_to(numbers, (count,))
