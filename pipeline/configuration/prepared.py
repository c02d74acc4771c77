"""What is a run that has passed its checks, and what follows from its settings for every stage?"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from operator import mul

from dni import REST, Foreseen, GradientSource, InputSource, Need, Pace, Periodic
from pipeline.configuration.blocks import Draws, StageBlocks, blocks_of, layout_of
from pipeline.configuration.config import Config, per_stage
from pipeline.configuration.partition import Partition
from pipeline.configuration.plan import Change, StagePlan
from pipeline.data.feed import Batch, Batches
from pipeline.messages import Activation
from pipeline.randomness.keyed import Phase
from pipeline.stages.awaited import Awaited
from pipeline.stages.output_errors import Listener
from pipeline.stages.participants import Boundary, Participants, Participation
from pipeline.stages.stash import OUTPUT_ERROR

__all__ = ["Outline", "Prepared", "Shares", "bounds_of", "imagines_of", "takes_every_of", "waits_of"]

_MOST_FORESEEN = 1000
"""Steps that are looked at to see how often a stage with blocks is updated, and who learns."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of the steps of a run, the part at which something of a stage is done."""

    blocks: Mapping[str, float] = field(default_factory=dict)
    """By block: it learns."""
    pulls: float = 1.0
    """The stage pulls a gradient back, for itself or for those below."""
    wanted_below: float = 1.0
    """The stage below is sent a gradient."""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What the ranks without the data have to know of it and of the cut; as JSON between processes."""

    starts: tuple[str, ...] | None
    """Names of the layers at which stages begin, after the first; None where the model comes in stages."""
    modifies_input: tuple[bool, ...]
    """Per stage, whether its module writes into its input."""
    draws: tuple[tuple[Phase, ...], ...]
    """Per stage, the phases in which it draws from the process-wide generators."""
    exact_feed: bool
    """Whether a resumed run sees the same microbatches."""
    evaluates: bool
    """Whether there is anything to evaluate on."""
    steps_per_epoch: int | None = None
    """Microbatches of an epoch; None: the data does not say."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run that has passed its checks."""

    config: Config
    cut: Partition
    sources: tuple[GradientSource, ...]
    """One per stage, the loss last."""
    inputs: tuple[InputSource, ...]
    """One per boundary."""
    outline: Outline
    plans: tuple[StagePlan, ...] = ()
    """What one real batch has shown; empty on a rank without data."""
    train: Batches | None = None
    """None on a rank without data."""
    test: Sequence[Batch] = ()
    changes: tuple[Change, ...] = ()
    """What events will make of the stages, as tried out on copies; empty on a rank without data."""
    probe: Activation | None = None
    """What each evaluation ends with; None: the run sends no probes, or this rank has no data."""

    @property
    def num_stages(self) -> int:
        """Stages of the network."""
        return len(self.cut)

    @property
    def num_ranks(self) -> int:
        """Processes of the distributed executor."""
        return self.config.num_ranks or self.num_stages

    def copied(self) -> Prepared:
        """The same run with stages and sources of its own, to try something on."""
        cut = copy.deepcopy(Partition(self.cut.stages, self.cut.prefixes))
        return replace(self, cut=cut, sources=copy.deepcopy(self.sources), inputs=copy.deepcopy(self.inputs))

    @cached_property
    def waits(self) -> list[bool]:
        """Per boundary, whether every step of the stage below waits for the gradient or the error at the output."""
        return waits_of(self.sources)

    def staleness(self, index: int) -> float:
        """The intended staleness of a stage, in updates: those that its bound lets pass before a gradient comes."""
        if index == self.num_stages - 1 or self.config.stash == "hold" or not self.waits[index]:
            return 0.0
        period = self.mean_period(index)
        every: int = per_stage(self.config.send_every, self.num_stages - 1, name="send_every")[index]
        updates = every / period if self.awaited[index].acts_apart else min(1.0, every / period)
        return (self.bounds[index] - 1) * updates

    @cached_property
    def blocks(self) -> tuple[StageBlocks, ...]:
        """Per stage, what has a cadence of its own."""
        periods = per_stage(self.config.cadence, self.num_stages, name="cadence")
        by_layer = self.config.participation is not None
        return blocks_of(self.cut, self.config.blocks, periods, by_layer=by_layer)

    def pace(self, index: int) -> Pace:
        """The windows of a stage's blocks, before the first step."""
        return self.blocks[index].pace(takes_every=self.takes_every[index], seed=self.config.seed)

    def participants(self, index: int) -> Participants | None:
        """Who learns at a step, as stage `index` has to know it; None: everything does."""
        return None if self._participation is None else Participants(self._participation, index)

    @cached_property
    def _participation(self) -> Participation | None:
        policy = self.config.participation
        if policy is None:
            return None
        boundaries = [
            Boundary(acts=bool(source.needs & Need.GRADIENT), learns=bool(source.learns_from & Need.GRADIENT))
            for source in self.sources[:-1]
        ]
        return Participation(policy, layout_of(self.blocks), boundaries, draw=Draws(self.config.seed))

    def shares(self, index: int) -> Shares:
        """How often a stage and its blocks learn, in the first steps of the run, syncs left out."""
        participants, steps = self.participants(index), range(min(self.config.steps, _MOST_FORESEEN))
        if participants is None:
            return Shares()
        learned = Counter(block for step in steps for block in participants.own(step))
        return Shares(
            blocks={block.name: learned[block.name] / len(steps) for block in self.blocks[index].blocks},
            pulls=sum(participants.pulls(step, 0) for step in steps) / len(steps),
            wanted_below=sum(participants.wanted_below(step, 0) for step in steps) / len(steps),
        )

    @cached_property
    def foreseen(self) -> list[Foreseen]:
        """Per stage, when its updates fall due; the same object for stages that are alike."""
        alike: dict[tuple[int, int], Foreseen] = {}
        return [
            self.pace(index).foreseen
            if stage.period is None
            else alike.setdefault((stage.period, every), self.pace(index).foreseen)
            for index, (stage, every) in enumerate(zip(self.blocks, self.takes_every, strict=True))
        ]

    def mean_period(self, index: int) -> float:
        """Steps that the stage gets from one of its updates, of whichever block, to the next; estimated where blocks
        have cadences of their own, those that cannot be foreseen left out."""
        if (period := self.blocks[index].period) is not None:
            return float(period)
        every = self.takes_every[index]
        steps = range(every - 1, every * _MOST_FORESEEN, every)
        cadences = {name: each for name, each in self.blocks[index].cadences.items() if each.foreseeable}
        foreseen = StageBlocks(cadences or {REST: Periodic()}).pace(takes_every=every, seed=self.config.seed).foreseen
        return len(steps) / max(1, sum(map(foreseen.due, steps)))

    @cached_property
    def wants(self) -> list[bool]:
        """Per boundary, whether its source makes anything of a gradient; if not, none is sent but at syncs."""
        return [bool((source.needs | source.learns_from) & Need.GRADIENT) for source in self.sources[:-1]]

    @cached_property
    def awaited(self) -> list[Awaited]:
        """Per stage, what its source waits for."""
        return [Awaited.by(source) for source in self.sources]

    @cached_property
    def takes_every(self) -> list[int]:
        """Per stage, of how many steps of the feed it gets the last."""
        return takes_every_of(self.config, self.num_stages)

    @cached_property
    def listeners(self) -> tuple[Listener, ...]:
        """The stages whose sources ask for the error at the output, or for the loss of each sample."""
        asked = [awaited.to_act | awaited.to_learn for awaited in self.awaited[:-1]]
        return tuple(
            Listener(stage=index, parts=parts & OUTPUT_ERROR)
            for index, parts in enumerate(asked)
            if parts & OUTPUT_ERROR
        )

    @cached_property
    def imagines(self) -> list[bool]:
        """Per stage, whether it runs on synthetic inputs."""
        return [False, *imagines_of(self.inputs)]

    @cached_property
    def input_listeners(self) -> tuple[int, ...]:
        """The stages that the first one sends the network's input."""
        return tuple(index for index, imagined in enumerate(self.imagines) if imagined)

    @property
    def direct(self) -> list[tuple[int, int]]:
        """The stages that send and receive beside the chain: what the loss says, from the last one; the network's
        input, from the first."""
        told = [(self.num_stages - 1, listener.stage) for listener in self.listeners]
        return told + [(0, stage) for stage in self.input_listeners]

    @cached_property
    def bounds(self) -> list[int]:
        """Per boundary, the bound on the microbatches in flight.

        A bound on staleness that is to be waited for is one on them: at most one version comes with each. And in fixed
        order, a stage that answers only when it is answered must not wait for more than comes from below.
        """
        return bounds_of(self.config, self.sources)


def waits_of(sources: Sequence[GradientSource]) -> list[bool]:
    """Per boundary, whether every step of the stage below waits for something from above."""
    return [bool(Awaited.by(source).to_act) for source in sources[:-1]]


def takes_every_of(config: Config, num_stages: int) -> list[int]:
    """Per stage, of how many steps of the feed it gets the last."""
    return list(accumulate(per_stage(config.send_every, num_stages - 1, name="send_every"), mul, initial=1))


def imagines_of(inputs: Sequence[InputSource]) -> list[bool]:
    """Per boundary, whether the stage above runs on synthetic inputs."""
    return [bool(source.needs & Need.INPUT) for source in inputs]


def _learns_late(awaited: Awaited) -> bool:
    """Whether the source still learns when the microbatch has been pulled back: an update may lie between."""
    return not awaited.to_learn <= awaited.to_act


def _moves_between(config: Config, awaited: Awaited) -> bool:
    """Whether steps that do not go on to the stages above bring versions, too, while a gradient is waited for."""
    waits = bool(awaited.to_act | awaited.to_learn) or config.syncs
    return waits and awaited.acts_apart


def bounds_of(config: Config, sources: Sequence[GradientSource]) -> list[int]:
    """Per boundary, the bound on the microbatches in flight; see `Prepared.bounds`."""
    waits = waits_of(sources)
    name = "delay" if config.arrival == "fixed" else "max_in_flight"
    bounds: list[int] = per_stage(getattr(config, name), len(waits), name=name)
    sent = per_stage(config.send_every, len(waits), name="send_every")
    if config.max_staleness is not None and config.at_max_staleness == "wait":
        bounds = [
            bound
            if wait and config.stash == "hold" and not _learns_late(awaited)
            else min(bound, config.max_staleness // (every if _moves_between(config, awaited) else 1) + wait)
            for bound, wait, awaited, every in zip(bounds, waits, map(Awaited.by, sources), sent, strict=False)
        ]
    if config.arrival == "ready":
        return bounds
    late_syncs = config.stash != "hold" and config.syncs
    least = accumulate(bounds, min)
    return [low if wait or late_syncs else bound for low, wait, bound in zip(least, waits, bounds, strict=True)]
