"""Does data that knows its place go on from it with the batches that are left, and no other?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.feed import Feed, FeedSettings, batches
from pipeline.data.stateful import Stateful, StatefulBatches
from pipeline.errors import ConfigurationError, RunError
from pipeline.messages import Activation, Drain
from tests.loaders import Remembering

NUM_BATCHES = 5


def _first(source: StatefulBatches, count: int, *, start: int = 0) -> list[float]:
    return [float(x) for x, _ in islice(source.start(start), count) if isinstance(x, Tensor)]


def _state_at(step: int) -> dict[str, Any]:
    source = StatefulBatches(Remembering(NUM_BATCHES))
    _first(source, step)
    source.mark(step)
    return source.marked(step)


def test_data_with_a_state_is_read_as_stateful_and_resumes_exactly() -> None:
    assert isinstance(Remembering(3), Stateful) and not isinstance([1], Stateful)
    found = batches(Remembering(3), seed=1)
    assert isinstance(found, StatefulBatches) and found.exact


@pytest.mark.parametrize("step", [0, 1, 4, 5, 6, 10, 13])
def test_batches_go_on_from_a_place_as_if_nothing_had_happened(step: int) -> None:
    whole = _first(StatefulBatches(Remembering(NUM_BATCHES)), step + 7)
    resumed = StatefulBatches(Remembering(NUM_BATCHES))
    resumed.peek()
    resumed.restore(step, _state_at(step))
    assert _first(resumed, 7, start=step) == whole[step:]
    assert len(set(whole[:NUM_BATCHES])) == NUM_BATCHES and whole[:5] != whole[5:10]


def test_draws_of_the_data_depend_on_the_step_only() -> None:
    noisy = [_first(StatefulBatches(Remembering(NUM_BATCHES, noise=True), seed=2), 9) for _ in range(2)]
    assert noisy[0] == noisy[1]
    resumed = StatefulBatches(Remembering(NUM_BATCHES, noise=True), seed=2)
    torch.rand(3)
    resumed.restore(6, _state_at(6))
    assert _first(resumed, 3, start=6) == noisy[0][6:]


def test_peek_shows_the_first_batch_uses_nothing_up_and_leaves_the_generator_alone() -> None:
    source = StatefulBatches(Remembering(NUM_BATCHES))
    torch.manual_seed(1)
    x, _ = source.peek()
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert isinstance(x, Tensor) and _first(source, 6) == _first(StatefulBatches(Remembering(NUM_BATCHES)), 6)
    assert float(x) == _first(source, 1)[0], "started again, it begins at its beginning"


def test_place_belongs_to_the_drain_and_not_to_what_was_pulled_since() -> None:
    """An executor may ask for the next message before the stages have drained."""
    source = StatefulBatches(Remembering(NUM_BATCHES))
    feed = Feed(source, [], settings=FeedSettings(steps=9, checkpoint_every=3))
    messages = feed.messages()
    for message in messages:
        if isinstance(message, Drain):
            break
    taken = next(messages)
    assert isinstance(taken, Activation) and taken.step == 3
    assert source.marked(3) == _state_at(3)


def test_interrupted_before_its_first_step_the_data_stands_where_it_stood() -> None:
    source = StatefulBatches(Remembering(NUM_BATCHES))
    source.peek()
    feed = Feed(source, [], settings=FeedSettings(steps=9))
    feed.interrupt()
    list(feed.messages())
    assert source.marked(0) == _state_at(0)
    source.restore(7, _state_at(7))
    resumed = Feed(source, [], settings=FeedSettings(steps=9), start=7)
    resumed.interrupt()
    list(resumed.messages())
    assert source.marked(7) == _state_at(7)


def test_data_that_gives_nothing_is_refused_and_data_that_ends_says_so() -> None:
    with pytest.raises(ConfigurationError, match="holds no batch"):
        StatefulBatches(Remembering(0)).peek()
    source = StatefulBatches(Remembering(NUM_BATCHES, epochs=1))
    with pytest.raises(RunError, match="ran out after 5 batches"):
        _first(source, 6)
    source.restore(5, source.marked(0) | {"epoch": 1})
    with pytest.raises(RunError, match="ran out after 5 batches"):
        _first(source, 1, start=5)


class Odd:
    """Data whose state no checkpoint can be read back with."""

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        return iter([(torch.zeros(1), None)])

    def state_dict(self) -> dict[str, Any]:
        return {"place": iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_state_that_cannot_be_read_back_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match=r"state_dict\(\) of the data .* tensors, numbers, strings"):
        batches(Odd(), seed=0)


def test_state_is_a_copy_that_the_data_does_not_change_later() -> None:
    source = StatefulBatches(Remembering(NUM_BATCHES))
    given = source.start(0)
    for _ in range(2):
        next(given)
    source.mark(2)
    state = source.marked(2)
    next(given)
    assert state == _state_at(2)
