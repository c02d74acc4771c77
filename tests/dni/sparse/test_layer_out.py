"""How often does each layer pause?"""

from __future__ import annotations

import pytest

from dni import LayerOut, Layout
from pipeline.configuration.blocks import Draws

LAYOUT = Layout((("0", "2"), ("4", "6")))


def test_layers_learn_as_often_as_their_place_says() -> None:
    policy = LayerOut(every=3, lowest=0.2, highest=0.8)
    drawn = [policy.learning(step, LAYOUT, Draws(0)) for step in range(6000)]
    assert all(drawn[step] == drawn[step - step % 3] for step in range(6000))
    shares = [sum(name in each for each in drawn) / 6000 for name in LAYOUT.blocks]
    assert shares == pytest.approx([0.2, 0.5, 0.8, 1.0], abs=0.04)
    assert policy.forgets and not policy.sets_rates


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LayerOut(every=0)
    with pytest.raises(ValueError, match=r"in \[0, 1\], got 1.5"):
        LayerOut(every=1, highest=1.5)
