"""What will the stages be, and is that possible?

One real batch goes through a deep copy of the network: shapes, work and memory are read from it, never guessed, and
whatever cannot work is refused before anything starts. The network itself is not touched: no BatchNorm statistic moves.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dni import (
    GradientSource,
    InputSource,
    LossGradient,
    Need,
    Signal,
    as_tuple,
    carriers,
    like,
    map_members,
    num_samples,
)
from pipeline.configuration.partition import Partition
from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError, PartitionError
from pipeline.messages import Payload
from pipeline.randomness.draws import DrawWatch, input_phases, module_phases, source_phases
from pipeline.randomness.keyed import Phase, generator, seeded, undisturbed

__all__ = ["Change", "StagePlan", "source_seconds", "survey"]

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """What one stage is, measured on one real batch."""

    index: int
    num_parameters: int
    parameter_bytes: int
    input_bytes: int
    """Of what enters it with one microbatch."""
    forward_flops: int
    """For the batch; matrix products and convolutions only."""
    activation_bytes: int
    """Of the output that crosses the boundary."""
    held_bytes: int
    """What the graph of one held microbatch keeps, parameters and buffers apart."""
    input_shapes: tuple[str, ...]
    output_shapes: tuple[str, ...]
    source: str
    source_parameters: int
    """What the source adds to the network's own parameters."""
    source_acts: bool
    """Whether it gives a gradient at all; a stage whose source does not learns at sync steps only."""
    input_parameters: int
    """What a synthetic input adds to the network's own parameters."""
    error_bytes: int
    """Of what the last stage sends it with one microbatch, because its source asks for it; 0: it is sent nothing."""
    modifies_input: bool
    """Whether the module writes into its input; the runtime then gives it a copy."""
    draws: tuple[Phase, ...]
    """Phases in which module or source draws from the process-wide generators; threads then take turns."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an event does to one stage."""

    step: int | None
    """None: it is not known when."""
    stage: int
    what: str
    """In one line."""
    parameters: tuple[int, int]
    """Of the stage, before and after."""
    flops: tuple[int, int]
    """Of a forward of one sample, before and after; matrix products and convolutions only."""


def survey(
    cut: Partition, sources: Sequence[GradientSource], inputs: Sequence[InputSource], batch: Batch, *, seed: int
) -> tuple[StagePlan, ...]:
    """Send one real batch through deep copies of stages and sources.

    Args:
        cut: the stages.
        sources: one per stage, the loss last.
        inputs: one per boundary.
        batch: (x, target).
        seed: of the draws the copies make.

    Raises:
        PartitionError: the stages do not chain; names the boundary and both shapes.
        ConfigurationError: the loss, a source or an input source cannot take the batch.
    """
    x, target = batch
    plans, trials = [], []
    with undisturbed():
        seeded(seed, "survey", 0, device=_CPU)
        h: Payload = x
        for index, module in enumerate(cut.stages):
            _check_needs(sources[index], index, target=target)
            trials.append(_try_stage(module, index, x=h, num_samples=num_samples(x)))
            h = trials[-1].h
        said = _ask_loss(sources, h, target)
        for index, (module, trial) in enumerate(zip(cut.stages, trials, strict=True)):
            given = trials[index - 1].h if index else x
            told = _share(said, sources[index])
            source = _try_source(sources[index], index, trial.h, target=target, told=told, seed=seed)
            imagined = _try_input(inputs[index - 1], index, x=x, h=given, seed=seed) if index else _InputTrial()
            plans.append(
                StagePlan(
                    index=index,
                    num_parameters=sum(p.numel() for p in module.parameters()),
                    parameter_bytes=sum(p.numel() * p.element_size() for p in module.parameters()),
                    input_bytes=_num_bytes(given),
                    forward_flops=trial.flops,
                    held_bytes=trial.held_bytes,
                    activation_bytes=_num_bytes(trial.h),
                    input_shapes=_shapes(given),
                    output_shapes=_shapes(trial.h),
                    source=type(sources[index]).__name__,
                    source_parameters=source.num_parameters,
                    source_acts=source.acts,
                    input_parameters=imagined.num_parameters,
                    error_bytes=sum(_num_bytes(part) for part in told.values()),
                    modifies_input=trial.modifies_input,
                    draws=(*trial.draws, *source.draws, *imagined.draws),
                )
            )
        _check_chain(cut, x, h, seed=seed)
    return tuple(plans)


def source_seconds(source: GradientSource, target: Tensor | None, *, seed: int) -> Callable[[Tensor], float]:
    """What a source costs a stage beside forward and backward, as a function of the stage's output h.

    Args:
        source: a copy of it is asked and learns.
        target: labels of the microbatch that h is of.
        seed: of the draws the copy makes.

    Returns:
        Seconds of an estimate and of a step of its learning, the fastest of a few; infinity where it cannot serve h.
    """

    def measure(h: Tensor, repeats: int = 3) -> float:
        trial = copy.deepcopy(source)
        # What the last stage would say is not known before the network is cut.
        error = h.new_zeros(h.shape[0], getattr(source, "num_outputs", 1))
        signal = Signal(step=0, target=target, gradient=torch.zeros_like(h), error=error, loss=h.new_zeros(h.shape[0]))
        elapsed_s = []
        with undisturbed():
            try:
                trial.build(h, generator=generator(seed, "source", 0))
                for _ in range(repeats):
                    start_s = time.perf_counter()
                    trial.estimate(h, signal)
                    if trial.learns_from:
                        trial.learn(h, signal)
                    elapsed_s.append(time.perf_counter() - start_s)
            except (TypeError, ValueError):  # the survey says so, if there is no better place for the boundary
                return math.inf
        return min(elapsed_s)

    return measure


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """What one forward of a copy has shown."""

    h: Payload
    flops: int
    held_bytes: int
    modifies_input: bool
    draws: tuple[Phase, ...]


def _try_stage(module: nn.Module, index: int, *, x: Payload, num_samples: int) -> _Trial:
    trial = copy.deepcopy(module).cpu().train()
    leaves = map_members(torch.clone, x)
    for member in carriers(leaves):
        member.requires_grad_()
    given = map_members(torch.clone, leaves)
    versions = [member._version for member in as_tuple(given) if member is not None]
    held = _Held(trial)
    try:
        with torch.enable_grad(), held, FlopCounterMode(display=False) as counter, DrawWatch() as drawing:
            h = trial(given)
    except Exception as error:
        raise PartitionError(
            f"stage {index} cannot take {', '.join(_shapes(x))} "
            f"({'from the data' if index == 0 else f'from stage {index - 1}'}): {type(error).__name__}: {error}. "
            "Stages must chain: each takes what the one before returns."
        ) from error
    _check_output(h, index, num_samples=num_samples)
    after = [member._version for member in as_tuple(given) if member is not None]
    return _Trial(
        h=map_members(torch.Tensor.detach, h),
        flops=counter.get_total_flops(),
        held_bytes=sum(held.bytes_by_storage.values()),
        modifies_input=versions != after,
        draws=module_phases(trial, drawing),
    )


class _Held(torch.autograd.graph.saved_tensors_hooks):
    """Counts the memory that a graph keeps for its backward, parameters and buffers of `module` apart."""

    def __init__(self, module: nn.Module) -> None:
        own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
        self.bytes_by_storage: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                self.bytes_by_storage[storage.data_ptr()] = storage.nbytes()
            return tensor

        super().__init__(pack, lambda tensor: tensor)


def _check_output(h: object, index: int, *, num_samples: int) -> None:
    members = h if isinstance(h, tuple) else (h,)
    if not all(isinstance(member, Tensor) for member in members) or not carriers(members):
        raise PartitionError(
            f"stage {index} must return a tensor or a tuple of tensors, at least one of them floating-point; "
            f"it returned {type(h).__name__} of {[type(member).__name__ for member in members]}."
        )
    for member in members:
        if member.dim() == 0 or member.shape[0] != num_samples:
            raise PartitionError(
                f"stage {index} must keep the samples on the first axis: {num_samples} went in, "
                f"{tuple(member.shape)} came out. Put the batch first (batch_first=True)."
            )


def _check_needs(source: GradientSource, index: int, *, target: Tensor | None) -> None:
    asked = source.needs | source.learns_from
    if asked & Need.INPUT:
        raise ConfigurationError(
            f"{_described(source, index)} of stage {index} needs {Need.INPUT}, which no boundary carries. "
            "Use a source that does without."
        )
    if target is None and asked & Need.TARGET:
        raise ConfigurationError(
            f"{_described(source, index)} of stage {index} needs TARGET, but the data gives no labels. "
            "Give (x, target) batches, or an unconditional source."
        )


def _described(source: GradientSource, index: int) -> str:
    """The source by name and boundary; the loss has none."""
    if isinstance(source, LossGradient):
        return "the loss"
    return f"boundary {index}-{index + 1}: the source {type(source).__name__}"


def _ask_loss(sources: Sequence[GradientSource], output: Payload, target: Tensor | None) -> dict[Need, Tensor]:
    """What the last stage would tell of this batch, if any source asks for it: dL/dy, and the loss of each sample."""
    last = len(sources) - 1
    asked = [(source.needs | source.learns_from) & (Need.ERROR | Need.LOSS) for source in sources[:-1]]
    if not any(asked):
        return {}
    if isinstance(output, tuple):
        index, need = next((index, need) for index, need in enumerate(asked) if need)
        raise ConfigurationError(
            f"{_described(sources[index], index)} of stage {index} needs {need} at the network's output, which must be "
            f"one tensor (N, C); stage {last} returns a tuple of {len(output)}. Let the network end in one tensor, or "
            "use a source that needs TARGET, GRADIENT or nothing."
        )
    loss = copy.deepcopy(sources[last])
    assert isinstance(loss, LossGradient)
    try:
        error, per_sample = loss.estimate(output, Signal(step=0, target=target)), loss.per_sample(output, target)
    except Exception as cause:
        raise _cannot_take(loss, last, output, target, cause) from cause
    assert isinstance(error, Tensor)
    return {Need.ERROR: error, Need.LOSS: per_sample}


def _share(said: Mapping[Need, Tensor], source: GradientSource) -> dict[str, Tensor]:
    """What of it a source asks for, by the field of the signal."""
    asked = source.needs | source.learns_from
    return {str(need.name).lower(): part for need, part in said.items() if asked & need}


@dataclass(frozen=True, kw_only=True)
class _SourceTrial:
    """What a copy of the source has shown."""

    num_parameters: int
    acts: bool
    """Whether it gives a gradient."""
    draws: tuple[Phase, ...]


def _try_source(
    source: GradientSource, index: int, h: Payload, *, target: Tensor | None, told: Mapping[str, Tensor], seed: int
) -> _SourceTrial:
    """Build a copy of the source, ask it and let it learn."""
    trial = copy.deepcopy(source)
    estimating, learning = DrawWatch(), DrawWatch()
    truth = like(h, [torch.zeros_like(member) for member in carriers(h)])
    signal = Signal(step=0, target=target, gradient=truth, error=told.get("error"), loss=told.get("loss"))
    try:
        trial.build(h, generator=generator(seed, f"source/{index}", 0))
        with estimating:
            gradient = trial.estimate(h, signal)
        if trial.learns_from:
            with learning:
                trial.learn(h, signal)
    except Exception as error:
        raise _cannot_take(source, index, h, target, error) from error
    if gradient is not None:
        got, wanted = (", ".join(_shapes(tuple(carriers(each)))) for each in (gradient, h))
        if got != wanted:
            raise ConfigurationError(
                f"{_described(source, index)} of stage {index} must return a gradient shaped as the output, {wanted}, "
                f"got {got}. Make what predicts it end in the output's shape and dtype."
            )
    return _SourceTrial(
        num_parameters=sum(p.numel() for p in trial.parameters()) if isinstance(trial, nn.Module) else 0,
        acts=gradient is not None,
        draws=source_phases(trial, estimate=estimating, learn=learning),
    )


@dataclass(frozen=True, kw_only=True)
class _InputTrial:
    """What a copy of the input source has shown."""

    num_parameters: int = 0
    draws: tuple[Phase, ...] = ()


def _try_input(source: InputSource, index: int, *, x: Payload, h: Payload, seed: int) -> _InputTrial:
    """Build a copy of the input source of stage `index`, ask it and let it learn."""
    if not source.needs & Need.INPUT:
        return _InputTrial()
    where = f"boundary {index - 1}-{index}: {type(source).__name__}, the input of stage {index},"
    trial = copy.deepcopy(source)
    imagining, learning = DrawWatch(), DrawWatch()
    try:
        trial.build(x, h, generator=generator(seed, f"input/{index}", 0))
        with imagining:
            imagined = trial.estimate(x)
        with learning:
            trial.learn(x, h, step=0)
    except Exception as error:
        raise ConfigurationError(
            f"{where} cannot make {', '.join(_shapes(h))} of the network's input {', '.join(_shapes(x))}: {error}"
        ) from error
    got, wanted = ", ".join(_shapes(imagined)), ", ".join(_shapes(h))
    if got != wanted:
        raise ConfigurationError(
            f"{where} must return what stage {index - 1} sends, {wanted}, got {got}. "
            "Make its network end in that shape and dtype."
        )
    return _InputTrial(
        num_parameters=sum(p.numel() for p in trial.parameters()) if isinstance(trial, nn.Module) else 0,
        draws=input_phases(trial, imagine=imagining, learn=learning),
    )


def _cannot_take(
    source: GradientSource, index: int, h: Payload, target: Tensor | None, error: Exception
) -> ConfigurationError:
    return ConfigurationError(
        f"{_described(source, index)} cannot take the first batch: stage {index} returns {', '.join(_shapes(h))}, "
        f"the labels are {'none' if target is None else ', '.join(_shapes(target))}: {error}"
    )


def _check_chain(cut: Partition, x: Payload, h: Payload, *, seed: int) -> None:
    """A module whose children do not simply follow one another must not be mistaken for a chain."""
    if cut.model is None or isinstance(cut.model, nn.Sequential):
        return
    with torch.no_grad():
        whole = copy.deepcopy(cut.model).cpu().eval()(map_members(torch.clone, x))
        chained = map_members(torch.clone, x)
        for module in cut.stages:
            chained = copy.deepcopy(module).cpu().eval()(chained)
    if not _equal(whole, chained):
        raise PartitionError(
            f"{type(cut.model).__name__} is not a plain chain of its children: run one after another they give another "
            "output than its forward. Write what its forward does in between (flatten, activation, sum) as modules of "
            "an nn.Sequential, or give the stages as a list."
        )


def _equal(a: Payload, b: Payload) -> bool:
    pairs = list(zip(as_tuple(a), as_tuple(b), strict=False))
    return len(as_tuple(a)) == len(as_tuple(b)) and all(
        p is not None and q is not None and p.shape == q.shape and torch.equal(p, q) for p, q in pairs
    )


def _num_bytes(h: Payload) -> int:
    return sum(m.numel() * m.element_size() for m in as_tuple(h) if m is not None)


def _shapes(h: Payload) -> tuple[str, ...]:
    return tuple(f"{tuple(m.shape)} {str(m.dtype).removeprefix('torch.')}" for m in as_tuple(h) if m is not None)
