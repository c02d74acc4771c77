"""Which ranks are silent, and for how long, by this rank's own clock?

No thread and no clock is in here: whoever watches says what was heard, and when. Time in which this rank itself did
not run (it was paused, or the machine was), or in which nobody could be heard, is not held against the others.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BEAT_S", "SILENT_AFTER_S", "Liveness"]

BEAT_S = 0.25
"""A rank gives a sign of life this often, and looks for those of the others."""
SILENT_AFTER_S = 1.0
"""Without a sign of life for this long, a rank is called silent."""
_LATE_S = 2 * BEAT_S


class Liveness:
    """What one rank knows of the others.

    Args:
        now_s: the present, by a clock that never runs backwards.
    """

    def __init__(self, *, now_s: float) -> None:
        self._looked_s = now_s
        self._signs: dict[int, str] = {}
        self._heard_s: dict[int, float] = {}
        self._answered = 0
        self._answered_s = now_s

    def look(self, signs: Mapping[int, str], *, answers: int, now_s: float) -> None:
        """Take in the newest sign of every rank that has given one.

        Args:
            signs: by rank; each differs from the one before it.
            answers: how often the store has answered so far.
            now_s: the present.
        """
        passed_s = now_s - self._looked_s
        self._looked_s = now_s
        absent_s = passed_s - BEAT_S if passed_s > _LATE_S else 0.0
        if answers != self._answered:
            self._answered, self._answered_s = answers, now_s
            deaf_s = absent_s
        else:
            self._answered_s += absent_s
            deaf_s = passed_s
        for rank, sign in signs.items():
            if self._signs.get(rank) != sign:
                self._signs[rank], self._heard_s[rank] = sign, now_s
            else:
                self._heard_s[rank] += deaf_s

    def silences(self) -> dict[int, float]:
        """Seconds of silence of every rank that is silent, as of the last look."""
        past = {rank: self._looked_s - heard_s for rank, heard_s in self._heard_s.items()}
        return {rank: silent_s for rank, silent_s in past.items() if silent_s >= SILENT_AFTER_S}

    @property
    def store_silent_s(self) -> float:
        """Seconds since the store last answered, as of the last look."""
        return self._looked_s - self._answered_s
