"""When may a stage take the next microbatch, and when may it apply an update?"""

from __future__ import annotations

from pipeline.messages import Activation, Drain
from pipeline.stages.stage_settings import StageSettings
from pipeline.stages.stash import Forwarded, Stash

__all__ = ["Gate"]


class Gate:
    """What keeps a stage from taking what is on its way up, and updates from being applied.

    Args:
        settings: how the stage behaves.
        stash: what it holds.
    """

    def __init__(self, settings: StageSettings, stash: Stash) -> None:
        self._settings = settings
        self._stash = stash
        self.stopping = False
        """Whether nothing follows."""
        self.drain: Drain | None = None
        """What is to be carried out before anything more is taken."""
        self.probing = False
        """Whether a probe has not come back; no stage takes anything more before it has."""
        self._update_due: int | None = None
        """The step whose update waits until nothing is held (stash hold)."""
        self._below_waits = False
        """Whether a stage below takes nothing further before the newest microbatch, or its window, is answered."""

    @property
    def is_open(self) -> bool:
        """Whether what comes from below may be handled now.

        Not while a sync step waits for its gradient (a sync step is exact), while an update is due (the next window is
        forwarded with the new weights), while a stage below waits for what this one holds (nothing would come), while
        draining or while a probe is on its way, or with `max_in_flight` microbatches unanswered.
        """
        return (
            not self.stopping
            and self.drain is None
            and not self.probing
            and self._update_due is None
            and not self._stash.holds_sync
            and not (self._below_waits and self._stash.num_held)
            and len(self._stash) < self._settings.max_in_flight
        )

    def note(self, message: Activation, entry: Forwarded, *, due: bool) -> None:
        """Whether an update is due at this step; and whether a stage below waits for what this one holds."""
        settings, step = self._settings, message.step
        if settings.stash != "hold":
            entry.update_due = due
            return
        if due:
            self._update_due = step
        # An update below may fall due at a step that does not come up here, before the next one that does.
        until_next = range(step, step + settings.takes_every)
        self._below_waits = settings.is_true_below(message.reach) or any(
            cadence.due(each) for cadence in settings.cadences_below for each in until_next
        )

    def take_update(self, entry: Forwarded) -> int | None:
        """The step whose update may be applied now that `entry` has been dealt with; None: there is none."""
        if self._settings.stash != "hold":
            due, entry.update_due = entry.update_due, False
            return entry.step if due else None
        if self._stash.num_held:
            return None
        step, self._update_due = self._update_due, None
        return step
