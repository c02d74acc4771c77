"""Is a rank called silent when it is, and never because this rank itself, or the store, did not run?"""

from __future__ import annotations

from pipeline.executors.liveness import BEAT_S, Liveness


class Watch:
    """Looks as often as a rank does, at signs that the test gives."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.answers = 0
        self.signs = {1: "first", 2: "first"}
        self.liveness = Liveness(now_s=self.now_s)
        self.look()

    def look(self, *beating: int, after_s: float = BEAT_S, answered: bool = True) -> dict[int, float]:
        """One look; these ranks have given another sign since the last one."""
        self.now_s += after_s
        self.answers += answered
        self.signs |= dict.fromkeys(beating, f"at {self.now_s}")
        self.liveness.look(self.signs, answers=self.answers, now_s=self.now_s)
        return self.liveness.silences()


def test_rank_without_a_sign_for_a_second_is_silent_for_as_long_as_that() -> None:
    watch = Watch()
    for _ in range(3):
        assert watch.look(1) == {}
    for number in range(4, 12):
        assert watch.look(1) == {2: number * BEAT_S}


def test_silent_rank_that_is_heard_again_is_not_silent_any_more() -> None:
    watch = Watch()
    for _ in range(8):
        watch.look(1)
    assert watch.look(1, 2) == {}


def test_rank_that_has_not_begun_is_not_called_silent() -> None:
    watch = Watch()
    for _ in range(40):
        watch.look(1, 2)
    assert 3 not in watch.liveness.silences()


def test_pause_of_this_rank_itself_is_not_held_against_the_others() -> None:
    watch = Watch()
    watch.look(1, 2)
    assert watch.look(after_s=60.0) == {}
    for _ in range(2):
        assert watch.look() == {}
    assert watch.look(1) == {2: 4 * BEAT_S}


def test_silence_of_the_store_is_its_own_and_not_the_ranks() -> None:
    watch = Watch()
    watch.look(1, 2)
    for _ in range(40):
        assert watch.look(answered=False) == {}
    assert watch.liveness.store_silent_s == 40 * BEAT_S
    assert watch.look(1, 2) == {}
    assert watch.liveness.store_silent_s == 0.0


def test_pause_of_this_rank_is_not_held_against_the_store() -> None:
    watch = Watch()
    watch.look(after_s=60.0, answered=False)
    assert watch.liveness.store_silent_s == BEAT_S
