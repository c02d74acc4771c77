"""What would a run be with its method in a chain of many equal stages?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from torch import nn

from pipeline.configuration.blocks import check_participation
from pipeline.configuration.partition import Partition
from pipeline.configuration.plan import StagePlan
from pipeline.configuration.prepared import Prepared, imagines_of
from pipeline.errors import ConfigurationError

__all__ = ["equal_stages"]


def equal_stages(prepared: Prepared, num_stages: int) -> Prepared:
    """A chain of `num_stages` equal stages, each the mean of the given ones, to be timed (there are no modules in it).

    Nothing is evaluated or saved.

    Raises:
        ConfigurationError: stages or boundaries differ in their settings, so that there is no equal one.
    """
    config, plans = prepared.config, prepared.plans
    if len(plans) < 2:
        raise ConfigurationError("a chain of equal stages is made from at least two; the configuration has one.")
    kinds = {(awaited, plan.source_acts) for awaited, plan in zip(prepared.awaited[:-1], plans[:-1], strict=True)}
    if len(kinds) > 1:
        raise _differ("source", tuple(type(source).__name__ for source in prepared.sources[:-1]))
    if len(set(imagines_of(prepared.inputs))) > 1:
        raise _differ("inputs", tuple(type(source).__name__ for source in prepared.inputs))
    each = ("cadence", "update_probability", "delay", "max_in_flight", "queue", "queue_size")
    if any(every > 1 for every in config.send_every):
        raise ConfigurationError(
            f"a chain of equal stages has one clock, but send_every is {', '.join(map(str, config.send_every))}. "
            "Set it to 1."
        )
    settings: dict[str, Any] = {name: _extended(getattr(config, name), num_stages, name=name) for name in each}
    stretched = replace(config, num_stages=num_stages, at=(), evaluate_every=0, checkpoint_every=0, **settings)
    stretched.costs.check(num_stages)
    inner = _mean_plan(plans, 0, is_last=False)
    chain = Prepared(
        config=stretched,
        cut=_no_mathematics(num_stages, one_layer_each=config.participation is not None),
        sources=(prepared.sources[0],) * (num_stages - 1) + prepared.sources[-1:],
        inputs=prepared.inputs[:1] * (num_stages - 1),
        outline=replace(prepared.outline, starts=None, modifies_input=(False,) * num_stages, evaluates=False),
        plans=(
            *(replace(inner, index=index) for index in range(num_stages - 1)),
            _mean_plan(plans, num_stages - 1, is_last=True),
        ),
    )
    if config.participation is not None:
        check_participation(config.participation, chain.blocks, steps=config.steps, seed=config.seed)
    return chain


def _no_mathematics(num_stages: int, *, one_layer_each: bool) -> Partition:
    """Stages of nothing; or of one layer each, by the number of the stage, for who says which learn."""
    if one_layer_each:
        layers = tuple(nn.Linear(1, 1) for _ in range(num_stages))
        return Partition(stages=layers, prefixes=tuple((("", f"{index}."),) for index in range(num_stages)))
    return Partition(stages=(nn.Identity(),) * num_stages, prefixes=((),) * num_stages)


def _extended(values: tuple[Any, ...], num_stages: int, *, name: str) -> tuple[Any, ...]:
    """One value for all; or bounds that fall by one from stage to stage, as those of 1F1B, from the new number on."""
    if len(set(values)) == 1:
        return values[:1]
    if name in ("delay", "max_in_flight") and values == tuple(range(len(values) + 1, 1, -1)):
        return tuple(range(num_stages, 1, -1))
    raise _differ(name, values)


def _differ(name: str, values: tuple[Any, ...]) -> ConfigurationError:
    return ConfigurationError(
        f"a chain of equal stages has one {name}, but the configuration's differ: {', '.join(map(str, values))}. "
        "Give one for all, or choose a method (--method)."
    )


def _mean_plan(plans: Sequence[StagePlan], index: int, *, is_last: bool) -> StagePlan:
    """The mean of all stages; what crosses a boundary is the mean of all boundaries."""
    below = plans[:-1]
    activation_bytes = _mean(plan.activation_bytes for plan in below)
    like = plans[-1] if is_last else plans[0]
    return replace(
        like,
        index=index,
        num_parameters=_mean(plan.num_parameters for plan in plans),
        parameter_bytes=_mean(plan.parameter_bytes for plan in plans),
        forward_flops=_mean(plan.forward_flops for plan in plans),
        held_bytes=_mean(plan.held_bytes for plan in plans),
        input_bytes=activation_bytes,
        activation_bytes=like.activation_bytes if is_last else activation_bytes,
        error_bytes=0 if is_last else _mean(plan.error_bytes for plan in below),
        source_parameters=0 if is_last else _mean(plan.source_parameters for plan in below),
    )


def _mean(numbers: Iterable[int]) -> int:
    return round(fmean(numbers))
