"""What is the loss of a batch as a function of the parameters alone?

It comes as parts that add up to it, some samples each, so that derivatives of any order need the memory of one part. Of
stages in one process, `nn.Sequential(*stages)` makes one function, and how they interact is seen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from dni.members import Members, as_tuple, map_members, num_samples
from dni.structure.dependencies import bare_copy

__all__ = ["Loss", "NoDerivativesError", "Share", "check_repeatable", "loss_parts", "shares_of", "twin_of"]

Loss: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
"""Parameters by name -> a scalar: the loss, or one of the parts that add up to it."""

_NUM_TRIED = 8
"""Samples on which it is tried whether a loss repeats itself, and how it is averaged."""
_TOLERANCE = 1e-5
"""Relative; of sums in another order in float32."""


class NoDerivativesError(ValueError):
    """The loss or a derivative of it is not finite here."""


@dataclass(frozen=True, slots=True)
class Share:
    """Some samples of a batch, and the weight of their loss in that of the batch."""

    x: Members
    target: Tensor | None
    weight: float


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a loss. Random numbers that the module draws are given back."""

    module: nn.Module
    loss: Callable[..., Tensor]
    share: Share

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        with _generators_kept([self.share.x]):
            x = map_members(torch.clone, self.share.x)  # a layer may work in place
            y = functional_call(self.module, dict(parameters), (x,))
        return self.loss(y, self.share.target) * self.share.weight


def loss_parts(
    module: nn.Module, loss: Any, x: Members, target: Tensor | None, *, samples_at_once: int | None = None
) -> list[Loss]:
    """The loss of a batch as functions of the parameters by name, which add up to it.

    Of a copy in the same mode, without hooks that only watch: module, statistics, gradients and generators stay as
    they are. A loss with kinks (ReLU, max-pooling) is taken, and its derivatives are those of the piece it is on: of a
    ReLU network they are exact almost everywhere, but what the kinks between the pieces add to its curvature is
    missing.

    Args:
        module: the network, or stages in an `nn.Sequential`. In evaluation, where it has dropout or BatchNorm.
        loss: of (output, target), a scalar: a mean or a sum over samples.
        x: the batch, (N, *F) or a tuple of such.
        target: (N, ...).
        samples_at_once: of a part; memory grows with it. None: the batch is one part.

    Raises:
        ValueError: the loss differs from one evaluation to the next, is not finite or not a scalar, BatchNorm is in
            training mode, or the loss is neither a mean nor a sum over samples and is to come in parts.
        TypeError: the module cannot be copied.
    """
    twin = twin_of(module)
    check_repeatable(twin, loss, x, target)
    return [_Part(twin, loss, share) for share in shares_of(twin, loss, x, target, samples_at_once=samples_at_once)]


def twin_of(module: nn.Module) -> nn.Module:
    """A copy in the same mode, without hooks that only watch.

    Raises:
        TypeError: it cannot be copied.
    """
    try:
        twin = bare_copy(module)
    except TypeError as error:
        raise TypeError(
            f"{type(module).__name__} must be one that copy.deepcopy can copy, so that nothing of it changes when its "
            "loss is looked at. Keep tensors of a forward pass out of its attributes."
        ) from error
    for own, part in zip(twin.modules(), module.modules(), strict=True):
        own.training = part.training
    return twin


def shares_of(
    module: nn.Module, loss: Any, x: Members, target: Tensor | None, *, samples_at_once: int | None
) -> list[Share]:
    """A batch cut into some samples each, with weights such that their losses add up to the loss.

    Whether it is a mean or a sum is tried on the first samples.

    Raises:
        ValueError: it is neither, or the number of samples at once is none.
    """
    count = num_samples(x)
    if samples_at_once is None or samples_at_once >= count:
        return [Share(x, target, 1.0)]
    if samples_at_once < 1:
        raise ValueError(f"samples at once must be at least 1, got {samples_at_once}.")
    starts = range(0, count, samples_at_once)
    is_mean = _is_mean(module, loss, x, target)
    return [
        Share(
            *_cut(x, target, start, min(start + samples_at_once, count)),
            weight=(min(start + samples_at_once, count) - start) / count if is_mean else 1.0,
        )
        for start in starts
    ]


def check_repeatable(module: nn.Module, loss: Any, x: Members, target: Tensor | None) -> None:
    """Raise unless the loss of a few samples is a number, and the same twice.

    Raises:
        ValueError: BatchNorm is in training mode, or the loss is random, not finite or not a scalar.
    """
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.training:
            raise ValueError(
                f"{name or 'the module'} is a {type(part).__name__} in training mode: its output depends on the other "
                "samples and its statistics move. Look at a copy of the network in evaluation mode."
            )
    few = _cut(x, target, 0, min(_NUM_TRIED, num_samples(x)))
    one, other = _tried(module, loss, [few, few])
    if one.dim():
        raise ValueError(f"the loss must be a scalar, got {tuple(one.shape)}. Use one that is a mean or a sum.")
    if not bool(one.isfinite()):
        raise NoDerivativesError(f"the loss must be finite to have derivatives, got {one.item()}.")
    if bool((one - other).abs() > _TOLERANCE * one.abs()):
        raise ValueError(
            f"the loss must be the same at every evaluation, got {one.item()} and then {other.item()} for the same "
            "samples. If it is dropout, look at a copy of the network in evaluation mode."
        )


def _cut(x: Members, target: Tensor | None, start: int, stop: int) -> tuple[Members, Tensor | None]:
    return map_members(lambda member: member[start:stop], x), None if target is None else target[start:stop]


def _tried(module: nn.Module, loss: Any, batches: Sequence[tuple[Members, Tensor | None]]) -> list[Tensor]:
    """Losses one after the other."""
    outputs = _outputs(module, (x for x, _ in batches))
    with torch.no_grad():
        return [loss(y, target) for y, (_, target) in zip(outputs, batches, strict=True)]


def _outputs(module: nn.Module, inputs: Iterable[Members]) -> list[Any]:
    """Outputs one after the other, by a copy: a forward pass may change it, and draws random numbers."""
    inputs = list(inputs)
    trial = copy.deepcopy(module)
    with torch.no_grad(), _generators_kept(inputs):
        return [trial(map_members(torch.clone, x)) for x in inputs]


def _generators_kept(inputs: Iterable[Members]) -> AbstractContextManager[None]:
    devices = {member.device for x in inputs for member in as_tuple(x) if member is not None and member.is_cuda}
    return torch.random.fork_rng(devices=list(devices))


def _is_mean(module: nn.Module, loss: Any, x: Members, target: Tensor | None) -> bool:
    count = min(_NUM_TRIED, num_samples(x))
    cuts = [_cut(x, target, 0, count), *(_cut(x, target, at, at + 1) for at in range(count))]
    outputs = _outputs(module, (x for x, _ in cuts))
    # Of outputs of at most 1: large ones have losses so close to 0 that rounding is all there is of them.
    size = max(1.0, float(outputs[0].abs().max())) if isinstance(outputs[0], Tensor) else None
    with torch.no_grad():
        whole, *each = (loss(y if size is None else y / size, own) for y, (_, own) in zip(outputs, cuts, strict=True))
    total, tolerance = torch.stack(each).sum(), _TOLERANCE * torch.stack(each).abs().sum()
    if bool((total / count - whole).abs() <= tolerance / count):
        return True
    if bool((total - whole).abs() <= tolerance):
        return False
    raise ValueError(
        f"a loss can come in parts only if it is the mean or the sum over samples: of {count} samples it is "
        f"{whole.item()}, their own losses have the mean {total.item() / count} and the sum {total.item()}. Leave "
        "samples_at_once out, or use a loss that weights all samples alike."
    )
