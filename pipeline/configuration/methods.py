"""Which settings make a run a known method? One function each: a configuration in, its variant out.

A method decides where gradients come from, what is in flight, what is kept for the backward, and when updates fall.
Model, data, optimiser, seed and `arrival` stay as they are: each method sets both `delay` (arrival fixed) and
`max_in_flight` (arrival ready), and keeps to the same order in both for equal stages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeAlias

from torch import nn

from dni import GradientSource, Need, Never, ReceivedInput, SyncPolicy, SyntheticGradient, TrueGradient
from pipeline.configuration.config import Config
from pipeline.errors import ConfigurationError
from pipeline.randomness.keyed import undisturbed

__all__ = [
    "MethodName",
    "backprop",
    "by_name",
    "ddg",
    "decoupled",
    "features_replay",
    "gpipe",
    "one_f_one_b",
    "pipedream",
]

MethodName: TypeAlias = Literal["backprop", "gpipe", "1f1b", "pipedream", "ddg", "features-replay", "decoupled"]


def backprop(config: Config, *, num_microbatches: int = 1) -> Config:
    """One microbatch in the whole network at a time; an update every `num_microbatches`."""
    return _true(config, bounds=(1,), num_microbatches=num_microbatches)


def gpipe(config: Config, *, num_microbatches: int) -> Config:
    """All forwards of `num_microbatches`, then all backwards, then an update.

    Source: Huang et al. 2019, section 2.2. Differs: graphs are held, not recomputed (stash="recompute" does that, and
    then the last stage pulls each microbatch back at once).
    """
    bounds = (num_microbatches,)
    return _true(config, bounds=bounds, num_microbatches=num_microbatches, prefer="activations")


def one_f_one_b(config: Config, *, num_microbatches: int, num_stages: int | None = None) -> Config:
    """One forward, one backward in turn; stage i holds at most S - i microbatches, and all are back at an update.

    Source: Narayanan et al. 2021 (Megatron-LM), section 2.2.1: PipeDream-Flush.

    Args:
        config: the run to vary.
        num_microbatches: from one update to the next.
        num_stages: of the network; by default counted from the configuration.
    """
    return _true(config, bounds=_one_less_each(config, num_stages), num_microbatches=num_microbatches)


def pipedream(config: Config, *, num_microbatches: int = 1, num_stages: int | None = None) -> Config:
    """1F1B without the flush: each backward uses the weights of its own forward, and updates never wait.

    Source: Narayanan et al. 2019, sections 3.2 and 3.3. Differs: no vertical sync.
    """
    bounds = _one_less_each(config, num_stages)
    return _true(config, bounds=bounds, num_microbatches=num_microbatches, stash="weights")


def ddg(config: Config, *, num_microbatches: int = 1, num_stages: int | None = None) -> Config:
    """Delayed gradients: the settings of PipeDream, under the name of the method that analysed their convergence.

    Source: Huo et al. 2018 (Decoupled Parallel Backpropagation). Differs: forwards are pipelined, too.
    """
    return pipedream(config, num_microbatches=num_microbatches, num_stages=num_stages)


def features_replay(config: Config, *, num_microbatches: int = 1, num_stages: int | None = None) -> Config:
    """Late gradients pulled back through a forward run again, with the weights of today, from inputs that were kept.

    Source: Huo et al. 2018 (Features Replay), algorithm 1. Differs: forwards are pipelined, too.
    """
    bounds = _one_less_each(config, num_stages)
    return _true(config, bounds=bounds, num_microbatches=num_microbatches, stash="recompute")


def decoupled(
    config: Config,
    *,
    delay: int = 2,
    source: GradientSource | tuple[GradientSource, ...] | None = None,
    sync: SyncPolicy | None = None,
) -> Config:
    """Stages that learn at once from what their own source says, and wait for no gradient; on synthetic inputs, if the
    configuration has them, for no input either.

    Source: Jaderberg et al. 2017 (DNI).

    Args:
        config: the run to vary.
        delay: microbatches a stage may be ahead of the one above; from 2 on, equal stages need not wait.
        source: of every boundary, or one each; by default the configuration's own, or an unconditional synthetic
            gradient where that one waits for the true one.
        sync: when the true gradient is used after all; by default never.

    Raises:
        ConfigurationError: a source waits for the gradient from above.
    """
    chosen = _decoupled_source(config) if source is None else source
    if any(_waits(member) for member in _listed(chosen)):
        raise ConfigurationError(
            f"a decoupled run needs sources that do not wait for the gradient from above, got {_names(chosen)}. "
            "Use a synthetic gradient, a local loss or none."
        )
    return _with_method(
        config, source=chosen, inputs=config.inputs, sync=Never() if sync is None else sync, bounds=(delay,)
    )


def by_name(name: MethodName, config: Config, *, num_microbatches: int = 8, num_stages: int | None = None) -> Config:
    """The method of that name; `num_microbatches` between two updates counts where the pipeline is emptied for them."""
    match name:
        case "backprop":
            return backprop(config)
        case "gpipe":
            return gpipe(config, num_microbatches=num_microbatches)
        case "1f1b":
            return one_f_one_b(config, num_microbatches=num_microbatches, num_stages=num_stages)
        case "pipedream":
            return pipedream(config, num_stages=num_stages)
        case "ddg":
            return ddg(config, num_stages=num_stages)
        case "features-replay":
            return features_replay(config, num_stages=num_stages)
        case "decoupled":
            return decoupled(config)


def _true(config: Config, *, bounds: tuple[int, ...], num_microbatches: int, **more: Any) -> Config:
    if num_microbatches < 1:
        raise ConfigurationError(f"num_microbatches must be at least 1, got {num_microbatches}.")
    return _with_method(config, source=TrueGradient(), sync=Never(), bounds=bounds, cadence=(num_microbatches,), **more)


def _with_method(config: Config, *, bounds: tuple[int, ...], **settings: Any) -> Config:
    """`config` with all that makes a method replaced, so that nothing of another one is left."""
    plain: dict[str, Any] = {
        "inputs": ReceivedInput(),
        "cadence": (1,),
        "update_probability": (1.0,),
        "prefer": "gradients",
        "stash": "hold",
        "correction": None,
        "max_staleness": None,
        "at_max_staleness": "wait",
        "queue": ("block",),
        "queue_size": Config.queue_size,
    }
    return replace(config, delay=bounds, max_in_flight=bounds, **(plain | settings))


def _one_less_each(config: Config, num_stages: int | None) -> tuple[int, ...]:
    """S, S - 1, ..., 2: the bounds of a chain that is full when its top begins. One stage has no boundary to bound."""
    count = _count_stages(config) if num_stages is None else num_stages
    return tuple(range(count, 1, -1)) or (1,)


def _count_stages(config: Config) -> int:
    if config.num_stages is not None:
        return config.num_stages
    if config.at:
        return len(config.at) + 1
    with undisturbed():
        model = config.model()
    if isinstance(model, nn.Module):
        raise ConfigurationError(
            "how many stages there are must be known: set num_stages or at, or give the model in stages."
        )
    return len(model)


def _decoupled_source(config: Config) -> GradientSource | tuple[GradientSource, ...]:
    waits = any(_waits(source) for source in _listed(config.source))
    return SyntheticGradient() if waits else config.source


def _waits(source: GradientSource) -> bool:
    return bool(source.needs & Need.GRADIENT)


def _listed(source: GradientSource | tuple[GradientSource, ...]) -> tuple[GradientSource, ...]:
    return source if isinstance(source, tuple) else (source,)


def _names(source: GradientSource | tuple[GradientSource, ...]) -> str:
    return ", ".join(type(member).__name__ for member in _listed(source))
