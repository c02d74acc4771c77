"""Does every setting of a run have an effect, and can they work together?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from pipeline.configuration.config import Config, per_stage
from pipeline.errors import ConfigurationError

__all__ = ["check_evaluation", "check_settings"]


def check_settings(
    config: Config,
    *,
    num_stages: int,
    waits: Sequence[bool],
    bounds: Sequence[int],
    imagines: Sequence[bool],
) -> None:
    """Refuse settings that cannot work together; warn of those without effect.

    Args:
        config: the run.
        num_stages: stages it is cut into.
        waits: per boundary, whether the stage below it waits for the gradient at every step.
        bounds: per boundary, the bound on the microbatches in flight.
        imagines: per boundary, whether the stage above it runs on synthetic inputs.

    Raises:
        ConfigurationError: they cannot work together.
    """
    for name in ("queue", "queue_size", "transport", "send_every"):
        per_stage(getattr(config, name), num_stages - 1, name=name)
    config.costs.check(num_stages)
    _check_staleness(config, waits, bounds)
    _check_queues(config, bounds)
    _check_inputs(config, imagines)
    if config.stash != "hold" and not any(waits) and not config.syncs:
        _warn(f"stash is {config.stash}, but no stage ever waits for a gradient: no boundary has the true one, no sync")
    if config.correction is not None and (config.stash == "hold" or not any(waits) or max(bounds, default=1) == 1):
        _warn(
            f"correction is {config.correction}, but no gradient is ever late: that takes the true gradient at a "
            "boundary, more than one microbatch in flight, and another stash than hold"
        )
    if config.blocks and config.correction is not None and config.correction.coasts:
        raise ConfigurationError(
            f"correction is {config.correction}, which moves every weight at every update of its stage; a block that "
            "accumulates must not move. Use another correction, or a cadence per stage instead of blocks."
        )
    if config.rate_rule != "none" and any(block.drifts for block in config.blocks):
        raise ConfigurationError(
            f"rate_rule is {config.rate_rule}, but blocks drift: an update of k microbatches moves them k times. "
            'Use rate_rule "none", or drifts=False.'
        )
    if config.participation is None and config.idle_batch_norm != "follow":
        _warn(f"idle_batch_norm is {config.idle_batch_norm}, but every layer learns at every step (no participation)")
    if config.max_restarts and config.executor != "distributed":
        _warn(f"max_restarts is {config.max_restarts}, but only the distributed executor is started again")
    if config.dead_after_s != type(config).dead_after_s and config.executor != "distributed":
        _warn("dead_after_s counts with the distributed executor only, whose ranks watch one another")


def check_evaluation(config: Config, *, num_stages: int, num_batches: int) -> None:
    """Warn where no evaluation batch comes to the last stage, whose clock is slower than the feed's."""
    every = math.prod(per_stage(config.send_every, num_stages - 1, name="send_every"))
    if 0 < num_batches < every:
        _warn(
            f"the test data hold {num_batches} batch(es), and the last stage gets one in {every} (send_every): nothing "
            "is evaluated"
        )


def _check_staleness(config: Config, waits: Sequence[bool], bounds: Sequence[int]) -> None:
    if config.max_staleness is None:
        if config.at_max_staleness != "wait":
            _warn("at_max_staleness is drop, but there is no max_staleness")
        return
    sent = per_stage(config.send_every, len(bounds), name="send_every")
    for lower, (wait, bound, every) in enumerate(zip(waits, bounds, sent, strict=True)):
        if bound < 1 and not wait:
            least = every if config.max_staleness else 1
            raise ConfigurationError(
                f"max_staleness is {config.max_staleness}, but stage {lower} learns before its gradient comes, so its "
                f"source learns {least} version(s) late at least. Set max_staleness to {least} or more, or "
                "at_max_staleness to drop."
            )


def _check_queues(config: Config, bounds: Sequence[int]) -> None:
    policies = per_stage(config.queue, len(bounds), name="queue")
    sizes = per_stage(config.queue_size, len(bounds), name="queue_size")
    if config.arrival == "fixed" and any(policy != "block" for policy in policies):
        raise ConfigurationError(
            f"queue is {config.queue} with arrival fixed, where nothing comes too fast: the order says what is next. "
            "Use queue block, or arrival ready."
        )
    if config.queue_size != type(config).queue_size and "drop_oldest" not in policies:
        _warn("queue_size counts with queue drop_oldest only")
    for lower, (policy, size, bound) in enumerate(zip(policies, sizes, bounds, strict=True)):
        room = {"block": 0, "latest": 1, "drop_oldest": size}[policy]
        if room >= bound:
            _warn(f"boundary {lower}-{lower + 1} never drops: {room} may wait there, and only {bound} be in flight")


def _check_inputs(config: Config, imagines: Sequence[bool]) -> None:
    policies = per_stage(config.queue, len(imagines), name="queue")
    sent = per_stage(config.send_every, len(imagines), name="send_every")
    highest = max((lower for lower, imagined in enumerate(imagines) if imagined), default=-1)
    for lower, (policy, every) in enumerate(zip(policies[: highest + 1], sent, strict=False)):
        if policy != "block":
            raise ConfigurationError(
                f"boundary {lower}-{lower + 1}: queue is {policy}, but stage {highest + 1} runs on synthetic inputs "
                "and waits for every activation that they stand for, so none may be dropped below it. Use queue block."
            )
        if every > 1:
            raise ConfigurationError(
                f"boundary {lower}-{lower + 1}: send_every is {every}, but stage {highest + 1}, above it, runs on "
                "synthetic inputs, which are made at every step of the feed. Use ReceivedInput there, or send_every 1."
            )


def _warn(what: str) -> None:
    warnings.warn(f"a setting has no effect: {what}.", stacklevel=4)
