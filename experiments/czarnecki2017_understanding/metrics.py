"""Which number does each statement of expected.csv stand or fall by?

Functions of all runs; None where a run is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import torch

from dni import compare_dissimilarities
from experiments.czarnecki2017_understanding.results import Runs
from experiments.czarnecki2017_understanding.toys import TOYS

__all__ = ["METRICS", "distance", "gap", "value"]

_DIMS = (2, 100)


def gap(runs: Runs, row: str, seed: int = 0) -> float | None:
    """How much of the way down backprop goes the same network does not, in %; negative: it goes further.

    (L - L_bp) / (L_first - L_bp) of the loss on the whole set, with the same first weights.
    """
    ours, backprop = runs.get(row, {}).get(seed), runs.get(_backprop(row), {}).get(seed)
    if ours is None or backprop is None:
        return None
    way = backprop["first_loss"] - backprop["last_loss"]
    return float(100 * (ours["last_loss"] - backprop["last_loss"]) / way)


def distance(runs: Runs, row: str, seed: int = 0) -> float | None:
    """Root mean square difference of two networks' answers: probabilities, or outputs for the squared error."""
    ours, backprop = runs.get(row, {}).get(seed), runs.get(_backprop(row), {}).get(seed)
    if ours is None or backprop is None:
        return None
    pairs = zip(ours["answers"], backprop["answers"], strict=True)
    return float(mean((a - b) ** 2 for a, b in pairs) ** 0.5)


def value(name: str, runs: Runs) -> float | None:
    """The number of a row of expected.csv; None: something was not run."""
    return METRICS[name](runs)


def _largest_gap(depth: str, loss: str, method: str) -> Callable[[Runs], float | None]:
    rows = [f"toy {data} {num_dims} {depth} {loss} {method}" for data in TOYS for num_dims in _DIMS]
    return lambda runs: _over([gap(runs, row) for row in rows], max)


def _explained(loss: str, name: str) -> Callable[[Runs], float | None]:
    def found(runs: Runs) -> float | None:
        run = runs.get(f"toy blobs 2 deep {loss} linear", {}).get(0)
        return None if run is None else float(run["surface"][name])

    return found


def _points(row: str, other: str, of: Callable[[Mapping[str, Any]], float]) -> Callable[[Runs], float | None]:
    """The mean over the seeds that both have of 100 times the difference."""

    def found(runs: Runs) -> float | None:
        seeds = sorted(runs.get(row, {}).keys() & runs.get(other, {}).keys())
        return mean(100 * (of(runs[row][seed]) - of(runs[other][seed])) for seed in seeds) if seeds else None

    return found


def _rsa(row: str) -> Callable[[Runs], float | None]:
    """How much more alike two networks of backprop are than one of them and one of `row`."""

    def found(runs: Runs) -> float | None:
        backprop, every = runs.get("deep none", {}), runs.get(row, {})
        seeds = sorted(backprop.keys() & every.keys())
        if len(seeds) < 2:
            return None
        others = [(one, another) for one in seeds for another in seeds if one != another]
        alike = mean(_alike(backprop[one], backprop[another]) for one, another in others)
        return alike - mean(_alike(backprop[one], every[another]) for one, another in others)

    return found


def _alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    """The mean over layers of the correlation of their class dissimilarities."""
    pairs = zip(first["dissimilarity"], second["dissimilarity"], strict=True)
    return mean(compare_dissimilarities(torch.tensor(a), torch.tensor(b)) for a, b in pairs)


def _backprop(row: str) -> str:
    return f"{row.rpartition(' ')[0]} bp"


def _over(values: Sequence[float | None], take: Callable[[list[float]], float]) -> float | None:
    known = [value for value in values if value is not None]
    return take(known) if known and len(known) == len(values) else None


def _test_error(run: Mapping[str, Any]) -> float:
    return float(run["test_error"])


METRICS: Mapping[str, Callable[[Runs], float | None]] = {
    "linear_mse": _largest_gap("linear", "mse", "linear"),
    "deep_mse": _largest_gap("deep", "mse", "linear"),
    "linear_log_linear": _largest_gap("linear", "log", "linear"),
    "linear_log_matched": _largest_gap("linear", "log", "matched"),
    "deep_log_linear": _largest_gap("deep", "log", "linear"),
    "deep_log_matched": _largest_gap("deep", "log", "matched"),
    "surface_mse": _explained("mse", "explained"),
    "surface_log_near": _explained("log", "explained_near"),
    "surface_log_far": _explained("log", "explained"),
    "deep_middle_error": _points("deep middle", "deep none", _test_error),
    "deep_every_error": _points("deep every", "deep none", _test_error),
    "deep_every_early": _points("deep every", "deep none", lambda run: float(run["probe_accuracy"][4])),
    "deep_middle_early": _points("deep middle", "deep none", lambda run: float(run["probe_accuracy"][9])),
    "deep_every_rsa": _rsa("deep every"),
    "deep_slow_error": _points("deep every slow", "deep none", _test_error),
    "deep_slow_early": _points("deep every slow", "deep none", lambda run: float(run["probe_accuracy"][4])),
    "deep_slow_rsa": _rsa("deep every slow"),
    "noise_gap": _points("small 1000 0.5 linear", "small 1000 0.5 bp", _test_error),
}
"""By row of expected.csv."""
