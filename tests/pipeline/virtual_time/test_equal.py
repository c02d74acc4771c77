"""Is a chain of equal stages the mean of the stages it is made from, and refused where there is no mean?"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from torch import nn

from dni import SyntheticGradient, TrueGradient
from pipeline.configuration.config import Config, Data
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import prepare
from pipeline.data.feed import KeyedBatches
from pipeline.errors import ConfigurationError
from pipeline.virtual_time.equal import equal_stages
from tests.pipeline.chain import features, labels


def _prepared(widths: tuple[int, ...] = (3, 5, 7, 3), **settings: Any) -> Prepared:
    """Linear stages between these widths."""
    x, target = features(0, num_samples=6, width=widths[0]), labels(0, num_samples=6)
    given: dict[str, Any] = {"source": SyntheticGradient(), "steps": 4} | settings
    return prepare(
        Config(
            model=lambda: [nn.Linear(a, b) for a, b in pairwise(widths)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=2), test=[(x, target)]),
            loss=nn.CrossEntropyLoss(),
            **given,
        )
    )


def test_equal_stages_are_the_mean_of_the_given_ones() -> None:
    chain = equal_stages(_prepared(evaluate_every=2, checkpoint_every=2), 5)
    assert chain.num_stages == len(chain.plans) == len(chain.sources) == 5 and len(chain.bounds) == 4
    assert [plan.index for plan in chain.plans] == [0, 1, 2, 3, 4]
    assert {plan.num_parameters for plan in chain.plans} == {round((20 + 42 + 24) / 3)}
    assert {plan.activation_bytes for plan in chain.plans[:-1]} == {2 * 4 * 6}
    assert chain.test == () and chain.config.evaluate_every == chain.config.checkpoint_every == 0
    assert chain.config.num_stages == 5


def test_bounds_that_fall_by_one_do_so_in_a_longer_chain_too() -> None:
    chain = equal_stages(_prepared(delay=(3, 2), max_in_flight=(5, 5), source=TrueGradient(), cadence=(8,)), 6)
    assert chain.config.delay == (6, 5, 4, 3, 2) and chain.config.max_in_flight == (5,)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay": (2, 4)}, "has one delay, but the configuration's differ: 2, 4"),
        ({"cadence": (1, 2, 1)}, "has one cadence, but .* 1, 2, 1"),
        ({"source": (SyntheticGradient(), TrueGradient())}, "has one source, but .* SyntheticGradient, TrueGradient"),
        ({"widths": (3, 3)}, "made from at least two"),
    ],
)
def test_stages_that_are_not_alike_have_no_equal_one(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        equal_stages(_prepared(**settings), 6)
