"""Is a plateau seen where the loss has stopped falling, and nowhere else?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni import OnPlateau, PlateauState


def _seen(when: OnPlateau, losses: Sequence[float]) -> list[int]:
    state, due = PlateauState(), []
    for step, loss in enumerate(losses):
        state, fires = when.observe(state, loss)
        due += [step] if fires else []
    return due


def _naive(when: OnPlateau, losses: Sequence[float]) -> list[int]:
    """From the whole history since the last event, at each step."""
    due: list[int] = []
    for step in range(len(losses)):
        begin = due[-1] + 1 + when.cooldown if due else 0
        history = losses[begin : step + 1]
        if not history or (when.at_most is not None and len(due) >= when.at_most):
            continue
        means = [history[0]]
        for loss in history[1:]:
            means.append(when.smoothing * means[-1] + (1 - when.smoothing) * loss)
        best, at = means[0], 0
        for i, mean in enumerate(means):
            if mean < best - when.min_delta:
                best, at = mean, i
        if len(means) - 1 - at >= when.patience:
            due.append(step)
    return due


@given(
    losses=st.lists(st.integers(0, 8), max_size=40),
    patience=st.integers(1, 4),
    min_delta=st.sampled_from([0.0, 1.0]),
    smoothing=st.sampled_from([0.0, 0.5]),
    cooldown=st.integers(0, 3),
    at_most=st.none() | st.integers(1, 3),
)
def test_plateaus_are_those_of_the_whole_history(
    losses: list[int], patience: int, min_delta: float, smoothing: float, cooldown: int, at_most: int | None
) -> None:
    when = OnPlateau(patience=patience, min_delta=min_delta, smoothing=smoothing, cooldown=cooldown, at_most=at_most)
    assert _seen(when, losses) == _naive(when, losses)


def test_state_is_all_that_is_kept() -> None:
    when, losses = OnPlateau(patience=3, cooldown=2, min_delta=0.01), [3.0, 2.0, *[1.0] * 60]
    state, due = PlateauState(), []
    for step, loss in enumerate(losses):
        state, fires = when.observe(PlateauState(**dataclasses.asdict(state)), loss)
        due += [step] if fires else []
    assert due == _seen(when, losses) and len(due) > 2


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 loss long"):
        OnPlateau(patience=0)
    with pytest.raises(ValueError, match=r"smoothing in \[0, 1\)"):
        OnPlateau(patience=1, smoothing=1.0)
    with pytest.raises(ValueError, match="at_most=0"):
        OnPlateau(patience=1, at_most=0)
    with pytest.raises(ValueError, match="losses that are finite, got nan"):
        OnPlateau(patience=1).observe(PlateauState(), float("nan"))
    OnPlateau(patience=9).check(num_steps=10, steps_per_epoch=None)
    with pytest.raises(ValueError, match="must fit into the run, which has 9 steps"):
        OnPlateau(patience=9).check(num_steps=9, steps_per_epoch=None)
