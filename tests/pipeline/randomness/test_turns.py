"""Is whoever draws alone, and is whoever draws out of turn named, and nobody else?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import pytest

from pipeline.randomness.turns import Turns


class Generator:
    """Stands for the process-wide generators; drawing changes its state."""

    def __init__(self) -> None:
        self.state = 0

    def draw(self) -> None:
        self.state += 1

    def look(self) -> int:
        return self.state


def _watched(
    turns: Turns, generator: Generator, name: str, waited: Callable[[float], None] = lambda s: None
) -> AbstractContextManager[None]:
    return turns.watched(generator.look, drew=lambda: LookupError(name), waited=waited)


def test_two_threads_do_not_draw_at_the_same_time() -> None:
    turns = Turns()
    inside, overlaps = [0], []
    start = threading.Barrier(3)

    def draw() -> None:
        start.wait()
        for _ in range(200):
            with turns.alone():
                inside[0] += 1
                overlaps.append(inside[0] > 1)
                inside[0] -= 1

    threads = [threading.Thread(target=draw) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(overlaps) == 600 and not any(overlaps)


def test_thread_that_does_not_draw_does_not_wait_for_one_that_does() -> None:
    turns = Turns()
    passed = threading.Event()

    def pass_by() -> None:
        with turns.beside("other"):
            passed.set()

    with turns.alone():
        thread = threading.Thread(target=pass_by)
        thread.start()
        assert passed.wait(20.0)
    thread.join()


def test_time_that_a_turn_was_waited_for_is_told() -> None:
    turns = Turns()
    waited: list[float] = []
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with turns.alone():
            entered.set()
            leave.wait(20.0)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(20.0)
    threading.Timer(0.02, leave.set).start()
    with turns.alone(waited.append):
        pass
    thread.join()
    assert len(waited) == 1 and waited[0] > 0
    with turns.alone(waited.append):
        assert len(waited) == 1, "nobody had it"


def test_turn_ends_with_an_exception_too() -> None:
    turns, generator = Turns(), Generator()
    for block in (turns.alone(), turns.beside("a"), _watched(turns, generator, "a")):
        with pytest.raises(ZeroDivisionError), block:
            raise ZeroDivisionError
    done = threading.Event()

    def take() -> None:
        with turns.alone():
            done.set()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert done.is_set()


def test_whoever_draws_while_watched_is_named() -> None:
    turns, generator = Turns(), Generator()
    with _watched(turns, generator, "honest"):
        pass
    with pytest.raises(LookupError, match="liar"), _watched(turns, generator, "liar"):
        generator.draw()
    assert not turns.suspicious


@pytest.mark.parametrize("begins", ["before", "meanwhile", "meanwhile and is over"])
def test_draw_that_may_be_anothers_makes_everybody_suspect_and_names_nobody(begins: str) -> None:
    turns, generator = Turns(), Generator()
    with ExitStack() as stack:
        if begins == "before":
            stack.enter_context(turns.beside("liar"))
        with _watched(turns, generator, "honest"):
            if begins == "meanwhile":
                stack.enter_context(turns.beside("liar"))
                generator.draw()
            else:
                with turns.beside("liar"):
                    generator.draw()
    assert turns.suspicious
    with _watched(turns, generator, "honest"):
        pass
    with pytest.raises(LookupError, match="liar"), _watched(turns, generator, "liar"):
        generator.draw()


def test_block_that_was_over_before_the_watch_began_is_no_suspect() -> None:
    turns, generator = Turns(), Generator()
    with turns.beside("other"):
        pass
    with pytest.raises(LookupError, match="liar"), _watched(turns, generator, "liar"):
        generator.draw()
