"""How does a configuration become stages that can run?

`prepare` checks everything that can be checked before anything starts; `build_stage` makes one stage of it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dni import (
    Corrector,
    Foreseen,
    GradientSource,
    InputSource,
    LossGradient,
    OwnLabels,
    ReceivedInput,
    Schedule,
    Sum,
    UpdateProbability,
)
from pipeline.clock import Clock
from pipeline.configuration.blocks import blocks_of, check_blocks, check_optimizer, check_participation, with_attached
from pipeline.configuration.checks import check_evaluation, check_settings
from pipeline.configuration.config import Config, per_stage
from pipeline.configuration.partition import Partition, partition
from pipeline.configuration.plan import source_seconds, survey
from pipeline.configuration.prepared import Outline, Prepared, bounds_of, imagines_of, takes_every_of, waits_of
from pipeline.configuration.timeline import check_events, rehearse_events
from pipeline.data.feed import Batch, Feed, FeedSettings, batches
from pipeline.errors import ConfigurationError
from pipeline.learners.agenda import Agenda
from pipeline.learners.decay import Decay, check_no_decay
from pipeline.learners.distributions import DistributionMeter
from pipeline.learners.idle import IdleLayers
from pipeline.learners.late_weights import LateWeights
from pipeline.learners.learner import Learner
from pipeline.learners.movement import MovementMeter
from pipeline.learners.naming import Naming
from pipeline.learners.parts import Parts, Remembered
from pipeline.learners.probe import make_probe
from pipeline.learners.structure import Structure
from pipeline.learners.updater import Updater
from pipeline.randomness.keyed import Generators, seeded, undisturbed
from pipeline.randomness.turns import Turns
from pipeline.stages.arrival import Inbox
from pipeline.stages.stage import Stage
from pipeline.stages.stage_settings import StageSettings
from pipeline.stages.trace import Recorder
from pipeline.transports.placement import check_transport, device_of, place, planned

__all__ = [
    "build_stage",
    "choose_device",
    "make_feed",
    "make_inbox",
    "prepare",
    "prepare_outlined",
    "resumes_exactly",
    "stage_settings",
]

_CPU = torch.device("cpu")


def prepare(config: Config, *, num_ranks: int | None = None) -> Prepared:
    """Make model and data, cut the model, and check all of it on one real batch.

    Args:
        config: the run.
        num_ranks: processes that are there, if that is already decided.

    Raises:
        ConfigurationError: something cannot work; nothing was started or written.
    """
    model = _make_model(config)
    with undisturbed():
        seeded(config.seed, "data", 0, device=_CPU)
        data = config.data()
    train = batches(data.train, seed=config.seed)
    first = train.peek()
    cut = _cut(config, model, first)
    sources, inputs = _sources(config, len(cut)), _inputs(config, len(cut))
    _check_ranks(num_ranks or config.num_ranks, len(cut))
    check_settings(
        config,
        num_stages=len(cut),
        waits=waits_of(sources),
        bounds=bounds_of(config, sources),
        imagines=imagines_of(inputs),
    )
    _check_transport(config, len(cut), num_ranks=num_ranks)
    for name in ("cadence", "update_probability", "schedule"):
        per_stage(getattr(config, name), len(cut), name=name)
    check_evaluation(config, num_stages=len(cut), num_batches=len(data.test))
    probe = make_probe(data.test, num_samples=config.probe_samples)
    _check_labels(sources, data.train)
    _check_blocks(config, cut)
    plans = survey(cut, sources, inputs, first, seed=config.seed)
    outline = Outline(
        starts=None if isinstance(model, Partition) else cut.starts,
        modifies_input=tuple(plan.modifies_input for plan in plans),
        draws=tuple(plan.draws for plan in plans),
        exact_feed=train.exact,
        evaluates=len(data.test) > 0,
        steps_per_epoch=getattr(data.train, "steps_per_epoch", None),
    )
    prepared = Prepared(
        config=config,
        cut=cut,
        sources=sources,
        inputs=inputs,
        outline=outline,
        plans=plans,
        train=train,
        test=list(data.test),
        probe=probe,
    )
    check_events(prepared)
    return replace(prepared, changes=rehearse_events(prepared, first, build_stage))


def prepare_outlined(config: Config, outline: Outline) -> Prepared:
    """What another process has prepared and checked, without the data: for the ranks that hold no first stage."""
    model = _make_model(config)
    if outline.starts is not None:
        config = replace(config, at=outline.starts, num_stages=len(outline.starts) + 1)
    cut = _cut(config, model, None)
    sources, inputs = _sources(config, len(cut)), _inputs(config, len(cut))
    return Prepared(config=config, cut=cut, sources=sources, inputs=inputs, outline=outline)


def build_stage(
    prepared: Prepared, index: int, *, clock: Clock, device: torch.device | None = None, turns: Turns | None = None
) -> Stage:
    """Stage `index`, ready for its first message; its module is moved to `device`.

    `turns` are those of the threads that draw from the same generators; None: this thread alone does.
    """
    config = prepared.config
    device = device or _CPU
    module = prepared.cut.stages[index].to(device)
    recorder = Recorder(index, clock)
    learner = Learner(
        module,
        index=index,
        source=prepared.sources[index],
        inputs=prepared.inputs[index - 1] if index else ReceivedInput(),
        parts=lambda remembered: _make_parts(prepared, index, module, recorder, remembered),
        naming=Naming(prepared.cut.prefixes[index]),
        recorder=recorder,
        device=device,
        seed=config.seed,
        generators=Generators(
            seed=config.seed,
            stage=index,
            device=device,
            turns=turns,
            draws=frozenset(prepared.outline.draws[index]),
            check_every=config.check_every,
            waited=recorder.held_up,
        ),
        modifies_input=prepared.outline.modifies_input[index],
        measure_every=config.measure_every,
        stash=config.stash,
        takes_every=prepared.takes_every[index],
        structure=Structure(
            index=index,
            is_last=index == prepared.num_stages - 1,
            agenda=Agenda(
                config.events,
                seed=config.seed,
                steps=config.steps,
                steps_per_epoch=prepared.outline.steps_per_epoch,
            ),
            seed=config.seed,
        ),
    )
    return Stage(learner, settings=stage_settings(prepared, index), recorder=recorder)


def _make_parts(prepared: Prepared, index: int, module: nn.Module, recorder: Recorder, remembered: Remembered) -> Parts:
    """What knows the parameters of a stage's module, for the module as it is."""
    config, names = prepared.config, prepared.cut.names(index)
    participants = prepared.participants(index)
    learned = [names[name] for name, parameter in module.named_parameters() if parameter.requires_grad]
    blocks = with_attached(prepared.blocks[index].blocks, learned)
    updater = Updater(
        {names[name]: parameter for name, parameter in module.named_parameters()},
        optimizer=per_stage(config.optimizer, prepared.num_stages, name="optimizer")[index],
        schedule=_schedule(prepared, index),
        clip_norm=config.clip_norm,
        decay=None if config.weight_decay is None else Decay(config.weight_decay),
        blocks=blocks,
        pace=remembered.pace or prepared.pace(index),
        rate_rule=config.rate_rule,
        participants=participants,
        ages=remembered.ages,
        masks=remembered.masks,
    )
    return Parts(
        updater=updater,
        weights=LateWeights(
            module, stash=config.stash, corrector=_corrector(prepared, index, module), history=remembered.history
        ),
        idle=IdleLayers(
            module, names=names, blocks=blocks, participants=participants, batch_norm=config.idle_batch_norm
        ),
        movement=MovementMeter(module, names=names, recorder=recorder, every=config.measure_updates_every),
        distributions=DistributionMeter(module, names=names, recorder=recorder, every=config.histograms_every),
    )


def stage_settings(prepared: Prepared, index: int) -> StageSettings:
    """How stage `index` behaves."""
    config, num_stages, bounds = prepared.config, prepared.num_stages, prepared.bounds
    defers = config.prefer == "activations" and config.stash == "hold"
    probabilities = per_stage(config.update_probability, num_stages, name="update_probability")
    takes_every = prepared.takes_every
    is_last = index == num_stages - 1
    bound = bounds[min(index, len(bounds) - 1)] if bounds and (defers or not is_last) else 1
    if is_last and config.arrival == "fixed":  # a listener sends no more before it is told
        bound = min([bound, *(bounds[listener.stage] for listener in prepared.listeners)])
    return StageSettings(
        index=index,
        num_stages=num_stages,
        seed=config.seed,
        sync=config.sync,
        takes_every=takes_every[index],
        sends_every=takes_every[min(index + 1, num_stages - 1)],
        top_takes_every=takes_every[-1],
        cadences_below=_each_once(prepared.foreseen[:index]) if config.stash == "hold" else (),
        below_wants=index > 0 and prepared.wants[index - 1],
        update_probability=UpdateProbability(probabilities[index]),
        participants=prepared.participants(index),
        max_in_flight=bound,
        stash=config.stash,
        most_staleness=config.max_staleness if config.at_max_staleness == "drop" else None,
        defers=defers,
        imagines=prepared.imagines[index],
        input_probability=prepared.inputs[index - 1].update_probability if index else UpdateProbability(),
        input_listeners=prepared.input_listeners if index == 0 else (),
        listeners=prepared.listeners if is_last else (),
        check_every=config.check_every,
    )


def make_inbox(prepared: Prepared, index: int) -> Inbox:
    """What waits for stage `index`, by the order and the queue policy of the boundary below it."""
    config = prepared.config
    room = None
    if index > 0:  # the feed waits for the first stage
        policy = per_stage(config.queue, prepared.num_stages - 1, name="queue")[index - 1]
        size = per_stage(config.queue_size, prepared.num_stages - 1, name="queue_size")[index - 1]
        room = {"block": None, "latest": 1, "drop_oldest": size}[policy]
    return Inbox(config.arrival, prefer=config.prefer, room=room)


def choose_device(wanted: str, *, local_rank: int = 0) -> torch.device:
    """A GPU if there is one and it is wanted; ranks of one machine share them if there are fewer."""
    device = device_of(wanted, local_rank=local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def make_feed(prepared: Prepared, *, start: int = 0) -> Feed:
    """What enters the first stage."""
    config = prepared.config
    settings = FeedSettings(
        steps=config.steps, evaluate_every=config.evaluate_every, checkpoint_every=config.checkpoint_every
    )
    assert prepared.train is not None, "the first stage's rank has the data"
    if start and not prepared.train.exact:
        warnings.warn(
            f"the data is read again from its beginning and {start} batches are skipped; the resumed run is not "
            "bit-equal to one never stopped. Use KeyedBatches for that.",
            stacklevel=2,
        )
    return Feed(prepared.train, prepared.test, settings=settings, start=start, probe=prepared.probe)


def resumes_exactly(prepared: Prepared, step: int) -> bool:
    """Whether going on from a checkpoint at `step` equals never having stopped, bit for bit.

    It does in fixed order, with a keyed feed, where the undisturbed run drains at that step too, or where nothing is
    ever in flight between two steps.
    """
    config = prepared.config
    periods = (config.checkpoint_every, config.evaluate_every if prepared.outline.evaluates else 0)
    drains_anyway = any(period and step % period == 0 for period in periods) or max(prepared.bounds, default=1) == 1
    return config.arrival == "fixed" and prepared.outline.exact_feed and drains_anyway


def _schedule(prepared: Prepared, index: int) -> Schedule:
    """The schedule of a stage's learning rate, with what the rule against staleness has to say to it."""
    schedule: Schedule = per_stage(prepared.config.schedule, prepared.num_stages, name="schedule")[index]
    rule, staleness = prepared.config.correction, prepared.staleness(index)
    if rule is None or not staleness:
        return schedule
    return lambda step: schedule(step) * rule.rate(step, staleness=staleness)


def _corrector(prepared: Prepared, index: int, module: nn.Module) -> Corrector | None:
    rule, staleness = prepared.config.correction, prepared.staleness(index)
    return Corrector(rule, module.named_parameters(), staleness=staleness) if rule is not None and staleness else None


def _make_model(config: Config) -> nn.Module | Partition | Sequence[nn.Module]:
    with undisturbed():
        seeded(config.seed, "model", 0, device=_CPU)
        return config.model()


def _cut(config: Config, model: nn.Module | Partition | Sequence[nn.Module], first: Batch | None) -> Partition:
    if isinstance(model, Partition):
        if config.num_stages not in (None, len(model)) or config.at:
            raise ConfigurationError(f"the model is already cut into {len(model)} stages; leave out num_stages and at.")
        return model
    x, target = (None, None) if first is None else first
    return partition(
        model,
        config.num_stages,
        at=config.at,
        by=config.balance,
        batch=x if isinstance(x, Tensor) else None,
        source_s=_source_s(config, target) if config.balance == "time" and config.num_stages else (),
    )


def _source_s(config: Config, target: Tensor | None) -> list[Callable[[Tensor], float]]:
    """Per boundary, what its source costs the stage below; a single source is measured once for all of them."""
    num_boundaries = (config.num_stages or 1) - 1
    if isinstance(config.source, tuple):
        sources = per_stage(config.source, num_boundaries, name="source")
        return [source_seconds(source, target, seed=config.seed) for source in sources]
    return [source_seconds(config.source, target, seed=config.seed)] * num_boundaries


def _sources(config: Config, num_stages: int) -> tuple[GradientSource, ...]:
    below = per_stage(config.source, num_stages - 1, name="source")
    for source in below:
        if not isinstance(source, GradientSource):
            raise ConfigurationError(
                f"a source must be a GradientSource (needs, learns_from, build, estimate, learn), "
                f"got {type(source).__name__}."
            )
    return (*(copy.deepcopy(source) for source in below), LossGradient(config.loss))


def _inputs(config: Config, num_stages: int) -> tuple[InputSource, ...]:
    inputs = per_stage(config.inputs, num_stages - 1, name="inputs")
    for source in inputs:
        if not isinstance(source, InputSource):
            raise ConfigurationError(
                "an input must be an InputSource (needs, update_probability, build, estimate, learn), "
                f"got {type(source).__name__}. Use SyntheticInput or ReceivedInput."
            )
    return tuple(copy.deepcopy(source) for source in inputs)


def _check_ranks(num_ranks: int | None, num_stages: int) -> None:
    if num_ranks is not None and num_ranks > num_stages:
        raise ConfigurationError(
            f"{num_ranks} ranks cannot share {num_stages} stages: a stage lives on one rank. "
            f"Start at most {num_stages} ranks, or cut the network into more stages."
        )


def _check_transport(config: Config, num_stages: int, *, num_ranks: int | None) -> None:
    """Ranks that are there already tell one another where they are; others will be started on this host."""
    placement = place(num_stages, num_ranks or config.num_ranks or num_stages)
    check_transport(config, placement)
    if config.executor == "distributed" and num_ranks is None:
        planned(config, placement)


def _check_blocks(config: Config, cut: Partition) -> None:
    """Whether the blocks are there, will be updated, and suit the optimisers; and whether weights decay once."""
    num_stages = len(cut)
    periods = per_stage(config.cadence, num_stages, name="cadence")
    stages = blocks_of(cut, config.blocks, periods)
    takes_every = takes_every_of(config, num_stages)
    check_blocks(stages, steps=config.steps, takes_every=takes_every, seed=config.seed)
    if config.participation is not None:
        stages = blocks_of(cut, config.blocks, periods, by_layer=True)
        check_participation(config.participation, stages, steps=config.steps, seed=config.seed)
    optimizers = per_stage(config.optimizer, num_stages, name="optimizer")
    for index, (optimizer, blocks) in enumerate(zip(optimizers, stages, strict=True)):
        check_optimizer(optimizer, cut.stages[index], cut.names(index), blocks)
        if config.weight_decay is not None:
            check_no_decay(optimizer([nn.Parameter(torch.zeros(1))]))


def _each_once(foreseen: Iterable[Foreseen]) -> tuple[Foreseen, ...]:
    """Stages that are alike share one."""
    return tuple({id(each): each for each in foreseen}.values())


def _check_labels(sources: Sequence[GradientSource], train: object) -> None:
    """Look at all labels where they are in memory; a conditional source says how many classes there are."""
    target = getattr(train, "target", None)
    if not isinstance(target, Tensor) or target.is_floating_point():
        return
    for index, source in enumerate(sources):
        for held in source.sources if isinstance(source, Sum) else (source,):
            if (part := _declaring(held)) is None:
                continue
            own = held.labels(target) if isinstance(held, OwnLabels) else target
            if not 0 <= int(own.min()) <= int(own.max()) < part.num_classes:
                raise ConfigurationError(
                    f"boundary {index}-{index + 1}: the source {type(source).__name__} of stage {index} declares "
                    f"{part.num_classes} classes (0 to {part.num_classes - 1}), the labels run from {int(own.min())} "
                    f"to {int(own.max())}. Set num_classes to {int(own.max()) + 1}."
                )


def _declaring(source: object) -> Any:
    """The source, or what it holds (as a Shadow does), that says how many classes there are."""
    parts: Iterable[Any] = source.modules() if isinstance(source, nn.Module) else (source,)
    return next((part for part in parts if hasattr(part, "num_classes")), None)
