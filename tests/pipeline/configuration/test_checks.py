"""Are settings that cannot work together refused, and those without effect pointed out?"""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from dni import Bernoulli, ConditionalSyntheticGradient, TrueGradient
from pipeline import Config, ConfigurationError, prepare
from tests.reference import Problem

PROBLEM = Problem(num_stages=3, steps=4)


def config(**settings: Any) -> Config:
    """Three stages with synthetic gradients, or what `source` says."""
    return PROBLEM.config(settings.pop("source", ConditionalSyntheticGradient(num_classes=10)), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"at_max_staleness": "drop"}, "at_max_staleness is drop, but there is no max_staleness"),
        ({"stash": "weights"}, "stash is weights, but no stage ever waits for a gradient"),
        ({"max_restarts": 3}, "max_restarts is 3, but only the distributed executor"),
        ({"arrival": "ready", "queue_size": (3,)}, "queue_size counts with queue drop_oldest only"),
        (
            {"arrival": "ready", "queue": ("block", "latest"), "max_in_flight": (1,)},
            "boundary 1-2 never drops: 1 may wait there, and only 1 be in flight",
        ),
        (
            {"arrival": "ready", "queue": ("drop_oldest", "block"), "queue_size": (4,)},
            "boundary 0-1 never drops: 4 may wait there, and only 4 be in flight",
        ),
    ],
)
def test_setting_without_effect_warns(settings: dict[str, Any], message: str) -> None:
    with pytest.warns(UserWarning, match=f"a setting has no effect: {message}"):
        prepare(config(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_staleness": 0}, "max_staleness is 0, but stage 0 learns before its gradient comes"),
        ({"queue": ("latest",)}, "with arrival fixed, where nothing comes too fast"),
        ({"arrival": "ready", "queue": ("latest",) * 3}, "queue takes 1 value or 2 "),
        ({"arrival": "ready", "queue_size": (2, 2, 2)}, "queue_size takes 1 value or 2 "),
        ({"transport": ("gloo",) * 4}, "transport takes 1 value or 2 "),
    ],
)
def test_settings_that_cannot_work_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepare(config(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"stash": "weights", "sync": Bernoulli(0.1)},
        {"stash": "recompute", "source": TrueGradient()},
        {"source": TrueGradient(), "max_staleness": 0},
        {"max_staleness": 2, "at_max_staleness": "drop"},
        {"arrival": "ready", "queue": ("drop_oldest",), "queue_size": (3,)},
        {"executor": "distributed", "max_restarts": 2},
    ],
)
def test_settings_that_make_sense_are_taken_in_silence(settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepare(config(**settings)).num_stages == 3


def test_bound_on_staleness_bounds_what_is_in_flight() -> None:
    synthetic = ConditionalSyntheticGradient(num_classes=10)
    for settings, bounds in (
        ({"delay": (5,), "max_staleness": 3}, [3, 3]),
        ({"delay": (5,), "max_staleness": 3, "at_max_staleness": "drop"}, [5, 5]),
        ({"arrival": "ready", "max_in_flight": (2, 8), "max_staleness": 3}, [2, 3]),
        ({"source": TrueGradient(), "delay": (5,), "max_staleness": 3}, [5, 5]),  # held: updates wait, nothing is stale
        ({"source": TrueGradient(), "delay": (5,), "max_staleness": 3, "stash": "weights"}, [4, 4]),
        ({"source": (synthetic, TrueGradient()), "delay": (5,), "max_staleness": 3, "stash": "weights"}, [3, 3]),
    ):
        assert prepare(config(**settings)).bounds == bounds
