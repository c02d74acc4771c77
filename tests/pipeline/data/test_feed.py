"""Does the feed give the right microbatches, in an order that only the seed decides, and drain where it must?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pipeline.data.feed import Batches, Feed, FeedSettings, KeyedBatches, ReadBatches, batches
from pipeline.errors import ConfigurationError, RunError
from pipeline.messages import Activation, Drain, Stop

X = torch.arange(10.0)[:, None]
TARGET = torch.arange(10)


def _keyed(batch_size: int = 3, **more: Any) -> KeyedBatches:
    return KeyedBatches(X, TARGET, batch_size=batch_size, **more)


def _first(source: Batches, count: int, *, start: int = 0) -> list[list[int]]:
    """The labels of the first microbatches, which name the samples."""
    found = []
    for x, target in islice(source.start(start), count):
        assert isinstance(x, Tensor) and isinstance(target, Tensor)
        assert torch.equal(x[:, 0].long(), target), "inputs and labels stay together"
        found.append(target.tolist())
    return found


# Keyed


def test_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    assert _first(_keyed(seed=4), 9) == _first(_keyed(seed=4), 9)
    assert _first(_keyed(seed=4), 9) != _first(_keyed(seed=5), 9)


def test_order_does_not_depend_on_the_global_generator_and_leaves_it_alone() -> None:
    torch.manual_seed(1)
    before = _first(_keyed(), 9)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert _first(_keyed(), 9) == before


def test_each_epoch_is_another_permutation_with_a_short_last_batch() -> None:
    source = _keyed()
    assert source.steps_per_epoch == 4
    first, second = _first(source, 4), _first(source, 4, start=4)
    for epoch in (first, second):
        assert [len(batch) for batch in epoch] == [3, 3, 3, 1]
        assert sorted(chain.from_iterable(epoch)) == list(range(10))
    assert first != second
    assert first != [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_short_last_batch_can_be_left_out() -> None:
    source = _keyed(drop_last=True)
    assert source.steps_per_epoch == 3
    assert [len(batch) for batch in _first(source, 6)] == [3] * 6


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 10), st.booleans(), st.integers(0, 25))
def test_keyed_batches_resume_at_any_step_exactly(batch_size: int, drop_last: bool, step: int) -> None:
    source = _keyed(batch_size, drop_last=drop_last)
    assert _first(source, 5, start=step) == _first(source, step + 5)[step:]


def test_peek_shows_the_first_batch_and_does_not_use_it_up() -> None:
    for source in (_keyed(), ReadBatches([(X[:2], TARGET[:2]), (X[2:4], TARGET[2:4])])):
        x, target = source.peek()
        assert torch.equal(x[:, 0].long(), target)
        assert _first(source, 1) == [target.tolist()]


@pytest.mark.parametrize("batch_size", [0, 11])
def test_impossible_batch_size_is_refused(batch_size: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"\[1, 10\] \(the samples there are\), got {batch_size}"):
        _keyed(batch_size)


def test_inputs_without_as_many_labels_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 10 inputs and 9 labels"):
        KeyedBatches(X, TARGET[:9], batch_size=2)


# Read


def _list() -> list[tuple[Tensor, Tensor]]:
    return [(X[i : i + 3], TARGET[i : i + 3]) for i in (0, 3, 6, 9)]


def _loader(**more: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, TARGET), batch_size=3, **more)


def test_list_is_read_again_and_again() -> None:
    source = ReadBatches(_list())
    whole = [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert _first(source, 10) == whole + whole + whole[:2]


@pytest.mark.parametrize("step", [0, 1, 3, 4, 5, 11])
def test_read_batches_resume_by_reading_and_skipping(step: int) -> None:
    for iterable in (_list(), _loader(shuffle=True)):
        source = ReadBatches(iterable)
        assert not source.exact, "the iterable might not read the same again"
        assert _first(ReadBatches(iterable), 3, start=step) == _first(source, step + 3)[step:]


def test_one_shot_iterator_gives_every_batch_once_and_then_says_that_it_ran_out() -> None:
    def once() -> Iterator[tuple[Tensor, Tensor]]:
        yield from _list()

    source = ReadBatches(once())
    assert source.peek()[1] is not None and source.peek()[1].tolist() == [0, 1, 2]
    assert _first(source, 4) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    other = ReadBatches(once())
    other.peek()
    with pytest.raises(RunError, match=r"the data ran out after 4 batches: .* or fewer steps"):
        _first(other, 5)


def test_one_shot_iterator_can_be_resumed_by_skipping() -> None:
    source = ReadBatches(iter(_list()))
    source.peek()
    assert _first(source, 2, start=1) == [[3, 4, 5], [6, 7, 8]]


def test_shuffle_of_a_loader_is_keyed() -> None:
    torch.manual_seed(1)
    first = _first(ReadBatches(_loader(shuffle=True), seed=3), 12)
    torch.manual_seed(2)
    assert _first(ReadBatches(_loader(shuffle=True), seed=3), 12) == first
    assert _first(ReadBatches(_loader(shuffle=True), seed=4), 12) != first
    assert first[:4] != first[4:8], "every epoch is shuffled anew"
    for epoch in (first[:4], first[4:8]):
        assert sorted(chain.from_iterable(epoch)) == list(range(10))


def test_order_that_an_iterable_draws_when_it_is_opened_is_keyed() -> None:
    class Opened:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            order = torch.randperm(10)
            return iter([(X[order[:5]], TARGET[order[:5]]), (X[order[5:]], TARGET[order[5:]])])

    first = _first(ReadBatches(Opened()), 6)
    torch.rand(3)
    assert _first(ReadBatches(Opened()), 6) == first and first[:2] != first[2:4]


def test_what_a_loader_draws_per_sample_does_not_depend_on_what_others_draw_in_between() -> None:
    class Noisy(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            return torch.rand(1), self.tensors[1][index]

    def read(disturb: int) -> list[Tensor]:
        loader: DataLoader[Any] = DataLoader(Noisy(X, TARGET), batch_size=3, shuffle=True)
        found = []
        for x, _ in islice(ReadBatches(loader).start(0), 8):
            assert isinstance(x, Tensor)
            found.append(x)
            torch.rand(disturb)
        return found

    for a, b in zip(read(1), read(5), strict=True):
        assert torch.equal(a, b)


def test_peek_leaves_the_global_generator_alone() -> None:
    for source in (_keyed(), ReadBatches(_loader(shuffle=True)), ReadBatches(_list())):
        torch.manual_seed(7)
        source.peek()
        drawn = torch.rand(1)
        torch.manual_seed(7)
        assert torch.equal(drawn, torch.rand(1))


def test_peek_at_a_loader_shows_the_batch_that_comes_first() -> None:
    source = ReadBatches(_loader(shuffle=True))
    _, target = source.peek()
    assert target is not None
    assert _first(source, 1) == [target.tolist()]


def test_data_without_a_batch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="holds no batch"):
        ReadBatches([]).peek()


def test_iterables_are_read_and_keyed_batches_used_as_they_are() -> None:
    keyed = _keyed(seed=3)
    assert batches(keyed, seed=0) is keyed
    assert isinstance(batches(_loader(), seed=0), ReadBatches)
    with pytest.raises(ConfigurationError, match=r"must be an iterable of .* got int"):
        batches(3, seed=0)


def test_keyed_batches_without_a_seed_take_the_runs() -> None:
    given = _keyed()
    assert _first(batches(given, seed=7), 5) == _first(_keyed(seed=7), 5) != _first(_keyed(seed=8), 5)
    assert given.seed is None, "what the user holds is not changed"


# Messages


def _feed(*, start: int = 0, test: int = 2, **settings: int) -> Feed:
    return Feed(_keyed(), _list()[:test], settings=FeedSettings(**settings), start=start)  # type: ignore[arg-type]


def _said(feed: Feed) -> str:
    return " ".join(_word(message) for message in feed.messages())


def _word(message: Any) -> str:
    match message:
        case Activation(training=True):
            return str(message.step)
        case Activation():
            return f"e{message.step}"
        case Drain():
            return f"D{message.step}" + ("s" if message.save else "") + ("f" if message.finish else "")
        case Stop():
            return f"S{message.step}"
    raise AssertionError(message)


@pytest.mark.parametrize(
    ("settings", "test", "expected"),
    [
        ({"steps": 3}, 0, "0 1 2 D3sf S3"),
        ({"steps": 3}, 2, "0 1 2 D3sf e0 e1 D3 S3"),
        ({"steps": 4, "evaluate_every": 2}, 2, "0 1 D2 e0 e1 D2 2 3 D4sf e0 e1 D4 S4"),
        ({"steps": 4, "evaluate_every": 2}, 0, "0 1 2 3 D4sf S4"),
        ({"steps": 4, "checkpoint_every": 3}, 1, "0 1 2 D3s 3 D4sf e0 D4 S4"),
        ({"steps": 3, "checkpoint_every": 2, "evaluate_every": 2}, 1, "0 1 D2s e0 D2 2 D3sf e0 D3 S3"),
        ({"steps": 2, "checkpoint_every": 2}, 0, "0 1 D2sf S2"),
    ],
)
def test_feed_sends_steps_drains_evaluations_and_the_end(settings: dict[str, int], test: int, expected: str) -> None:
    said = _said(_feed(test=test, **settings))
    if test == 0 and settings.get("evaluate_every"):
        said = said.replace("D2 ", "")  # a drain without anything to evaluate does no harm
    assert said == expected


def test_resumed_feed_sends_what_the_undisturbed_one_sends_from_there() -> None:
    settings = {"steps": 9, "checkpoint_every": 3, "evaluate_every": 2}
    whole = _said(_feed(**settings))
    assert "5 D6s e0 e1 D6 6" in whole
    after_the_checkpoint = whole[whole.index("D6s") + len("D6s ") :]
    assert _said(_feed(start=6, **settings)) == after_the_checkpoint, "the evaluation of its step comes after it"
    assert _said(_feed(start=3, **settings)) == whole[whole.index("D3s") + len("D3s ") :]
    first, resumed = _feed(**settings), _feed(start=6, **settings)
    samples = [
        [m.h for m in feed.messages() if isinstance(m, Activation) and m.training and m.step >= 6]
        for feed in (first, resumed)
    ]
    assert len(samples[0]) == 3
    for a, b in zip(*samples, strict=True):
        assert isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)


def test_feed_resumed_at_its_end_takes_no_step() -> None:
    assert _said(_feed(start=3, steps=3, test=0)) == "D3sf S3"


def test_interrupted_feed_drains_saves_and_stops_at_the_next_step() -> None:
    feed = _feed(steps=9)
    messages = feed.messages()
    assert [_word(message) for message in islice(messages, 2)] == ["0", "1"]
    feed.interrupt()
    assert [_word(message) for message in messages] == ["D2s", "S2"]
    assert feed.stopped_at == 2


def test_feed_knows_how_far_it_came() -> None:
    feed = _feed(steps=4, start=1)
    assert feed.stopped_at == 1
    assert _said(feed)
    assert feed.stopped_at == 4


def test_feed_pulls_no_microbatch_before_it_is_asked_for() -> None:
    pulled = []

    def data() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in _list():
            pulled.append(1)
            yield batch

    messages = Feed(ReadBatches(data()), [], settings=FeedSettings(steps=4)).messages()
    assert not pulled
    next(messages)
    assert len(pulled) == 1
