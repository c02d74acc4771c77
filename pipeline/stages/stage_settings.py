"""What is a stage told once, before its first message?"""

from __future__ import annotations

from dataclasses import dataclass, field

from dni import Foreseen, SyncPolicy, UpdateProbability
from pipeline.stages.output_errors import Listener
from pipeline.stages.participants import Participants
from pipeline.stages.stash import StashPolicy

__all__ = ["StageSettings"]


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """How one stage behaves."""

    index: int
    """Position in the network, from 0."""
    num_stages: int
    seed: int
    sync: SyncPolicy
    """Asked by the first stage only."""
    takes_every: int = 1
    """Of so many steps of the feed it gets the last: those for which (step + 1) is a multiple of it."""
    sends_every: int = 1
    """Of so many steps of the feed it sends the last on; a multiple of `takes_every`."""
    top_takes_every: int = 1
    """What `takes_every` is of the last stage."""
    cadences_below: tuple[Foreseen, ...] = ()
    """Of the stages below, which send nothing further while an update of theirs waits for what this stage holds. Where
    a cadence of theirs cannot be foreseen, an update may fall due at every step."""
    below_wants: bool = True
    """Whether the source of the boundary below makes anything of a gradient. If not, it is sent one within reach of a
    sync only, and a credit else."""
    update_probability: UpdateProbability = field(default_factory=UpdateProbability)
    participants: Participants | None = None
    """Say which blocks learn at a step; None: all of them do."""
    max_in_flight: int = 1
    """Bound on the microbatches sent on and not yet answered; of a last stage that defers, on those it holds."""
    stash: StashPolicy = "hold"
    """What is kept from a forward until its gradient comes, and so whether updates wait for it."""
    most_staleness: int | None = None
    """A gradient that comes after more versions than this is not used; None: all are."""
    defers: bool = False
    """Of the last stage: it pulls nothing back before it has forwarded up to its bound (GPipe), as if the loss were a
    stage above it."""
    imagines: bool = False
    """Whether it runs on synthetic inputs."""
    input_probability: UpdateProbability = field(default_factory=UpdateProbability)
    """Draws the steps that its input source learns from."""
    input_listeners: tuple[int, ...] = ()
    """Of the first stage: those that it sends the network's input."""
    listeners: tuple[Listener, ...] = ()
    """Of the last stage: those that it tells what the loss says."""
    check_every: int = 100
    """Steps from one scan of the parameters for NaN to the next; 0: never."""

    @property
    def is_last(self) -> bool:
        """Whether the loss is this stage's source."""
        return self.index == self.num_stages - 1

    def goes_on(self, step: int) -> bool:
        """Whether the stage above gets the microbatch of this step; of the last stage: it is the loss's."""
        return self.is_last or (step + 1) % self.sends_every == 0

    def comes_to_top(self, step: int) -> bool:
        """Whether the last stage gets it."""
        return (step + 1) % self.top_takes_every == 0

    def pulls(self, step: int, reach: int) -> bool:
        """Whether there is anything to pull a gradient back for, here or below."""
        return self.participants is None or self.participants.pulls(step, reach)

    def is_wanted_below(self, step: int, reach: int) -> bool:
        """Whether the stage below makes anything of a gradient from here."""
        if self.participants is not None:
            return self.participants.wanted_below(step, reach)
        return self.index > 0 and (self.below_wants or self.is_true_below(reach))

    def is_within(self, reach: int) -> bool:
        """Whether a sync of this reach has the stage use the gradient from above."""
        return not self.is_last and reach >= self.num_stages - self.index

    def is_true_below(self, reach: int, *, stage: int | None = None) -> bool:
        """Whether it has the stage below (this one, or `stage`) use the gradient from here."""
        return reach > self.num_stages - (self.index if stage is None else stage)
