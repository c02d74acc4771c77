"""Does alpha rise as its ramp says, and go on where it was?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest

from dni import CosineRamp, LinearRamp, LossRamp, Progress, Ramp, ramp_from_json, ramp_to_json


def _alphas(ramp: Ramp, losses: Sequence[float | None]) -> list[float]:
    progress, alphas = Progress(), []
    for loss in losses:
        progress = ramp.advance(progress, loss)
        alphas.append(progress.alpha)
    return alphas


def test_ramps_rise_from_nothing_to_one_and_stay() -> None:
    assert _alphas(LinearRamp(num_steps=4), [math.nan] * 6) == [0.25, 0.5, 0.75, 1, 1, 1]
    cosine = _alphas(CosineRamp(num_steps=4), [0.0] * 5)
    assert cosine == pytest.approx([(1 - math.cos(math.pi * t / 4)) / 2 for t in (1, 2, 3, 4, 4)]) and cosine[-1] == 1
    assert _alphas(LossRamp(num_steps=3), [1.0] * 5) == [1 / 3, 2 / 3, 1, 1, 1]


def test_loss_ramp_waits_while_the_loss_is_above_its_best() -> None:
    ramp = LossRamp(num_steps=10, slack=0.1, memory=0.5)
    losses, smoothed, best, expected = [1.0, 0.8, 3.0, 1.0, 0.5, 0.5, 0.5], 1.0, 1.0, []
    alpha = 0
    for loss in losses:
        smoothed = 0.5 * smoothed + 0.5 * loss
        best = min(best, smoothed)
        alpha += smoothed <= 1.1 * best
        expected.append(alpha / 10)
    assert _alphas(ramp, losses) == expected == [0.1, 0.2, 0.2, 0.2, 0.3, 0.4, 0.5]


def test_loss_ramp_waits_until_there_is_a_loss_and_others_do_not() -> None:
    assert _alphas(LossRamp(num_steps=4), [None, None, 2.0, None, 1.0]) == [0, 0, 0.25, 0.25, 0.5]
    assert _alphas(LinearRamp(num_steps=4), [None, 2.0]) == _alphas(LinearRamp(num_steps=4), [0.0, 0.0])


@pytest.mark.parametrize(
    "ramp", [LinearRamp(num_steps=7), CosineRamp(num_steps=7), LossRamp(num_steps=7, slack=0.3, memory=0.7)]
)
def test_ramps_and_progress_are_written_down_and_go_on_where_they_were(ramp: Ramp) -> None:
    losses = [1.0, 0.9, 2.0, 0.7, 0.6]
    halfway = Progress()
    for loss in losses[:2]:
        halfway = ramp.advance(halfway, loss)
    written = json.loads(json.dumps([ramp_to_json(ramp), halfway.to_json()]))
    again, progress = ramp_from_json(written[0]), Progress.from_json(written[1])
    assert again == ramp and progress == halfway
    for loss in losses[2:]:
        progress = again.advance(progress, loss)
    assert progress.alpha == _alphas(ramp, losses)[-1]


def test_ramps_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="one step or more, got 0"):
        LinearRamp(num_steps=0)
    with pytest.raises(ValueError, match=r"got slack=-1, memory=0\.9"):
        LossRamp(num_steps=3, slack=-1)
    with pytest.raises(ValueError, match="one of 0 or more, got nan"):
        LossRamp(num_steps=3).advance(Progress(), math.nan)
    with pytest.raises(ValueError, match="of kind linear, cosine, loss, got 'cubic'"):
        ramp_from_json({"kind": "cubic", "num_steps": 3})
