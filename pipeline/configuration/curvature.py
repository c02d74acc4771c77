"""Can the curvature of what each stage sees be measured, and may it act on the updates?"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dni import (
    Constant,
    GradientSource,
    LossGradient,
    NoDerivativesError,
    Signal,
    StageBatch,
    StageCurvature,
    implied_loss,
    map_members,
    summarise_stage,
)
from pipeline.configuration.config import Config, per_stage
from pipeline.configuration.partition import Partition
from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError
from pipeline.learners.carrying import Carrying
from pipeline.learners.curvature import subsets_of
from pipeline.learners.naming import Naming
from pipeline.randomness.keyed import generator, undisturbed

__all__ = ["check_curvature", "describe_curvature"]

_NUM_TRIED = 4
"""Samples of the first batch that a summary is tried on."""


def check_curvature(config: Config, cut: Partition, sources: Sequence[GradientSource], first: Batch) -> None:
    """Try a summary on copies of the stages that are to have some; warn of settings that it makes meaningless.

    Raises:
        ConfigurationError: a stage is not smooth, or its source implies no loss; the subsets do not fit; or rates are
            to act on updates that they cannot be rates of.
    """
    chosen: list[StageCurvature | None] = per_stage(config.curvature, len(cut), name="curvature")
    for each in chosen:
        if each is not None and not isinstance(each, StageCurvature):
            raise ConfigurationError(f'curvature takes StageCurvature(by="tensor", ...), got {each!r}.')
    if not any(chosen):
        return
    if any(each is not None and each.acts for each in chosen):
        _check_acting(config, chosen)
    _check_subsets(cut, chosen)
    x, target = first
    h = map_members(lambda member: member[:_NUM_TRIED].cpu(), x)
    few = None if target is None else target[:_NUM_TRIED].cpu()
    with undisturbed():
        for index, (module, own) in enumerate(zip(cut.stages, chosen, strict=True)):
            stage = copy.deepcopy(module).cpu().train()
            if own is not None and any(p.requires_grad for p in stage.parameters()):
                _check_smooth(stage, index, Naming(cut.prefixes[index]))
            batch = StageBatch(x=h, signal=Signal(step=0, target=few))
            with torch.no_grad():
                h = copy.deepcopy(stage)(map_members(torch.clone, h))
            if own is not None and any(p.requires_grad for p in stage.parameters()):
                source = copy.deepcopy(sources[index])
                source.build(h, generator=generator(config.seed, f"source/{index}", 0))
                _try(stage, source, index, batch, own, cut.names(index))


def describe_curvature(config: Config, cut: Partition) -> list[str]:
    """In a line for each stage that has some."""
    lines = []
    for index, own in enumerate(per_stage(config.curvature, len(cut), name="curvature")):
        if own is None or not any(p.requires_grad for p in cut.stages[index].parameters()):
            continue
        count = subsets_of(cut.stages[index], names=cut.names(index), chosen=own).num_subsets
        by = own.by if isinstance(own.by, str) else "subsets of its own"
        every = "every update" if own.settings.period == 1 else f"one in {own.settings.period} updates"
        newest = "the newest microbatch" if own.microbatches == 1 else f"the newest {own.microbatches} microbatches"
        then = "scales every update" if own.acts else "reported only"
        lines.append(f"curvature of stage {index}: by {by} ({count}), at {every}, of {newest}; {then}")
    return lines


def _check_acting(config: Config, chosen: Sequence[StageCurvature | None]) -> None:
    """Refuse what moves weights by rules of its own, which know nothing of the rates.

    Raises:
        ConfigurationError: names the setting.
    """
    remedy = "Use acts=False, which only reports"
    if config.blocks:
        raise ConfigurationError(
            "curvature acts, but blocks have cadences: a rate is that of a step in which all subsets move together, "
            f"and these move at different updates. {remedy}, or a cadence per stage instead of blocks."
        )
    if config.participation is not None and config.participation.sets_rates:
        raise ConfigurationError(
            f"curvature acts, and so does participation {config.participation} on the rates of blocks. {remedy}, or a "
            "participation without rates of its own (TopOrAll, Only)."
        )
    if config.correction is not None:
        raise ConfigurationError(
            f"curvature acts, but correction {config.correction} counts on steps as the optimiser proposes them. "
            f"{remedy}, or no correction."
        )
    schedules = per_stage(config.schedule, len(chosen), name="schedule")
    acting = [each for each, own in zip(schedules, chosen, strict=True) if own is not None and own.acts]
    if any(not isinstance(each, Constant) for each in acting):
        warnings.warn(
            "a setting has little effect: schedule sets the size of the steps that are proposed, but curvature acts, "
            "and its rates go by their direction only. Let CurvatureSettings bound or scale the rates.",
            stacklevel=4,
        )


def _check_subsets(cut: Partition, chosen: Sequence[StageCurvature | None]) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for index, module in enumerate(cut.stages):
        names = cut.names(index)
        shapes |= {names[name]: tuple(p.shape) for name, p in module.named_parameters() if p.requires_grad}
    for index, own in enumerate(chosen):
        if own is None or isinstance(own.by, str):
            continue
        there = [name for names in own.by.values() for name in names]
        unknown = [name for name in there if not any(each == name or each.startswith(f"{name}.") for each in shapes)]
        if unknown:
            raise ConfigurationError(
                f"curvature: {unknown[0]!r} is neither a parameter that learns nor a module with such; the parameters "
                f"are {', '.join(shapes)}."
            )
        try:
            subsets_of(cut.stages[index], names=cut.names(index), chosen=own)
        except ValueError as error:
            raise ConfigurationError(f"curvature of stage {index}: {error}") from error


def _check_smooth(stage: nn.Module, index: int, naming: Naming) -> None:
    """Refuse layers of which a microbatch makes another function at each forward, or of other samples.

    Raises:
        ConfigurationError: names the layer.
    """
    for name, part in stage.named_modules():
        why = None
        if isinstance(part, _BatchNorm):
            why = "normalises by the other samples while its statistics move"
        elif isinstance(part, _DropoutNd) and part.p > 0:
            why = "draws at every forward"
        elif isinstance(part, Carrying):
            why = "carries state from one microbatch to the next"
        if why is not None:
            raise ConfigurationError(
                f"curvature of stage {index}: its layer {naming.full(name)}, a {type(part).__name__}, {why}, "
                "so there is no one loss to be differentiated. Leave the stage out (curvature takes one entry per "
                "stage, None for none), or use a layer that works on each sample by itself, as GroupNorm."
            )


def _try(
    stage: nn.Module,
    source: GradientSource,
    index: int,
    batch: StageBatch,
    chosen: StageCurvature,
    names: dict[str, str],
) -> None:
    where = "the loss" if isinstance(source, LossGradient) else f"boundary {index}-{index + 1}: the source"
    partition = subsets_of(stage, names=names, chosen=chosen)
    own = dict(stage.named_parameters())
    direction = {name: _small(own[name]) for name in partition.shapes}
    try:
        with torch.no_grad():
            implied_loss(source, copy.deepcopy(stage)(map_members(torch.clone, batch.x)), batch.signal)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"curvature of stage {index}: {where}: {error}") from error
    try:
        summarise_stage(stage, source, [batch], direction, partition)
    except NoDerivativesError:
        pass  # at this point: elsewhere it may have some
    except Exception as error:
        raise ConfigurationError(
            f"curvature of stage {index}: its loss must have three derivatives, but a summary on {_NUM_TRIED} samples "
            f"ended with {type(error).__name__}: {error} Leave the stage out (None in its place)."
        ) from error


def _small(parameter: Tensor) -> Tensor:
    return torch.full_like(parameter, 1e-3)
