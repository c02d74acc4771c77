"""Do cadences fall due when they say?"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dni import (
    ByConfidence,
    ByFunction,
    Cadence,
    Foreseen,
    NoiseScale,
    Pace,
    Periodic,
    Phases,
    RandomCadence,
    Window,
    rate_factor,
)


def draw(block: str, step: int) -> float:
    """Keyed, evenly spread."""
    return (step * 0.618 + len(block) * 0.3) % 1.0


def due_steps(cadence: Cadence, steps: int) -> list[int]:
    pace = Pace({"block": cadence}, draw=draw)
    return [step for step in range(steps) if pace.due(step)]


def test_periodic_falls_due_at_the_end_of_each_period() -> None:
    assert [Periodic(3).due(step) for step in range(7)] == [False, False, True, False, False, True, False]
    assert all(Periodic().due(step) for step in range(4))


@given(period=st.integers(1, 50), periods=st.integers(0, 20))
def test_periodic_falls_due_once_per_period(period: int, periods: int) -> None:
    assert sum(Periodic(period).due(step) for step in range(period * periods)) == periods


def test_phases_follow_one_another_at_their_steps() -> None:
    assert due_steps(Phases((4, 8), (Periodic(4), Periodic(1), Periodic(3))), 15) == [3, 4, 5, 6, 7, 8, 11, 14]


def test_random_cadence_falls_due_at_its_rate_by_the_draw_of_block_and_step_alone() -> None:
    found = due_steps(RandomCadence(0.25), 400)
    assert 90 <= len(found) <= 110 and found == due_steps(RandomCadence(0.25), 400)
    assert due_steps(RandomCadence(1.0), 3) == [0, 1, 2]
    with pytest.raises(ValueError, match="draws"):
        RandomCadence(0.5).due(0, Window("block"))


def test_function_sees_the_window_and_may_remember() -> None:
    def longer_each_time(step: int, window: Window) -> bool:
        if window.num_steps <= window.memory.get("last", 0):
            return False
        window.memory["last"] = window.num_steps
        return True

    assert due_steps(ByFunction(longer_each_time), 15) == [0, 2, 5, 9, 14]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Periodic(0), "at least 1 step, got 0"),
        (lambda: RandomCadence(0.0), r"probability in \(0, 1\], got 0.0"),
        (lambda: RandomCadence(1.5), "got 1.5"),
        (lambda: Phases((3, 3), (Periodic(),) * 3), "increasing steps"),
        (lambda: Phases((3,), (Periodic(),)), "1 changes need 2 cadences, got 1"),
        (lambda: Phases((3,), (ByConfidence(decay=0.5), ByConfidence())), "must agree on its decay"),
        (lambda: ByFunction(lambda step, window: True, noise_decay=1.0), "share"),
        (lambda: ByConfidence(shortest=4, longest=2), "shortest <= longest"),
        (lambda: ByConfidence(start=1), "at least 2 steps"),
        (lambda: ByConfidence(hysteresis=0.5), "at least 1, got 0.5"),
        (lambda: ByConfidence(decay=1.0), "share"),
        (lambda: ByConfidence(look_every=1), "look_every 2"),
    ],
)
def test_cadence_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_phase_must_be_a_cadence() -> None:
    with pytest.raises(TypeError, match="must be a Cadence"):
        Phases((3,), (Periodic(), 4))  # type: ignore[arg-type]


def test_every_cadence_satisfies_the_protocol_and_says_whether_others_can_foresee_it() -> None:
    foreseeable = {
        Periodic(): True,
        RandomCadence(0.5): True,
        Phases((3,), (Periodic(), RandomCadence(0.5))): True,
        Phases((3,), (Periodic(), ByConfidence())): False,
        ByConfidence(): False,
        ByFunction(lambda step, window: True): False,
    }
    for cadence, expected in foreseeable.items():
        assert isinstance(cadence, Cadence) and cadence.foreseeable is expected
    assert Phases((3,), (Periodic(), ByConfidence(decay=0.5))).noise_decay == 0.5


# Windows


def test_each_block_counts_for_itself() -> None:
    pace = Pace({"slow": Periodic(3), "fast": Periodic(1)})
    lengths: list[tuple[str, int, int]] = []
    for step in range(4):
        assert pace.due(step)
        pace.accumulate(2 + step)
        lengths += [(w.block, w.num_microbatches, w.num_samples) for w in map(_closed, pace.take_due(step))]
    assert lengths == [("fast", 1, 2), ("fast", 1, 3), ("slow", 3, 9), ("fast", 1, 4), ("fast", 1, 5)]
    assert pace.windows["slow"].samples_per_microbatch == 3.0 and pace.num_samples == 5
    assert [window.block for window in pace.take_all()] == ["slow"]


def _closed(window: Window) -> Any:
    return window.close()


def test_what_is_due_is_not_taken_before_it_has_come() -> None:
    pace = Pace({"block": Periodic(2)})
    assert [pace.due(step) for step in range(3)] == [False, True, False]
    assert pace.take_due(1) == [] and pace.take_due(2) == []


def test_other_stages_foresee_what_the_pace_does_and_take_the_rest_to_be_possible() -> None:
    pace = Pace({"a": Periodic(3), "b": RandomCadence(0.3)}, takes_every=2, draw=draw)
    foreseen = pace.foreseen
    assert [foreseen.due(step) for step in range(1, 40, 2)] == [pace.due(step) for step in range(1, 40, 2)]
    assert not any(foreseen.due(step) for step in range(0, 40, 2)), "those do not come to the stage"
    assert Foreseen((ByConfidence(),), ("c",)).due(0)


# Confidence


def noisy(true: torch.Tensor, num_samples: int, seed: int) -> torch.Tensor:
    """The mean gradient of samples whose noise has the variance 1 in each of its elements."""
    drawn = torch.Generator().manual_seed(seed)
    return true + torch.randn(true.shape, generator=drawn, dtype=true.dtype) / num_samples**0.5


@pytest.mark.parametrize("sizes", [(8, 8, 8), (4, 8, 20)])
def test_noise_scale_is_what_the_gradients_were_made_with(sizes: tuple[int, ...]) -> None:
    true = torch.full((500,), 0.2, dtype=torch.float64)  # tr S / |G|^2 = 500 / 20
    noise = NoiseScale(decay=0.9)
    for window in range(150):
        gradients = [noisy(true, size, 10 * window + i) for i, size in enumerate(sizes)]
        for gradient, size in zip(gradients, sizes, strict=True):
            noise.add((gradient * size).square().sum().item(), num_samples=size)
        mean = sum(g * size for g, size in zip(gradients, sizes, strict=True)) / sum(sizes)  # type: ignore[operator]
        noise.close(mean.square().sum().item(), num_samples=sum(sizes))
    assert noise.value == pytest.approx(25.0, rel=0.1)


def test_window_of_one_microbatch_says_nothing_and_pure_noise_is_infinite() -> None:
    noise = NoiseScale(decay=0.5)
    noise.add(4.0, num_samples=2)
    noise.close(1.0, num_samples=2)
    assert noise.value is None
    for _ in range(2):
        noise.add(4.0, num_samples=2)
    noise.close(0.1, num_samples=4)
    assert noise.value == math.inf


def lengths_at(scale: float, *, samples: int = 8, steps: int = 200, **more: Any) -> list[int]:
    """Lengths of the windows of a block that measures this noise scale."""
    pace = Pace({"block": ByConfidence(**{"warmup": 2, **more})})
    window, lengths = pace.windows["block"], list[int]()
    for step in range(steps):
        pace.due(step)
        assert window.noise is not None
        window.noise.add((1.0 + scale / samples) * samples**2, num_samples=samples)
        pace.accumulate(samples)
        for each in pace.take_due(step):
            window.noise.close(1.0 + scale / each.num_samples, num_samples=each.num_samples)
            lengths.append(each.close().num_microbatches)
    return lengths


def test_block_accumulates_as_many_samples_as_its_noise_scale_within_bounds() -> None:
    assert lengths_at(40.0)[:2] == [2, 2] and set(lengths_at(40.0)[2:]) == {5}
    assert set(lengths_at(4000.0, longest=6)[2:]) == {6}
    assert set(lengths_at(4.0, shortest=2)) == {2}
    assert set(lengths_at(20.0, hysteresis=2.0)) == {2}, "2.5 steps are too near to 2 to change anything"


def test_block_that_is_sure_of_each_step_looks_again_now_and_then() -> None:
    lengths = lengths_at(1.0, look_every=8)
    assert set(lengths[2:]) == {1, 2} and sum(length == 2 for length in lengths[2:]) == len(lengths[2:]) // 8


def test_windows_go_on_where_they_were_saved() -> None:
    first, second = (Pace({"a": ByConfidence(warmup=1), "b": Periodic(3)}) for _ in range(2))
    for step in range(5):
        first.due(step)
        first.accumulate(4)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict() and first.state_dict()["a"]["memory"]["length"] == 2
    first.windows["a"].memory["length"] = 9
    assert second.windows["a"].memory["length"] == 2, "a copy"


def test_rate_follows_its_rule() -> None:
    assert [rate_factor("none", 4), rate_factor("linear", 4), rate_factor("sqrt", 4)] == [1.0, 4.0, 2.0]
