"""What was the network of a run at a checkpoint, and on which samples is it looked at?

Everything here is made anew from the run's configuration and its files; the run itself is only read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dni import GradientSource, NetworkLoss, UsedGradient, as_tuple, map_members, num_samples, sum_over_samples
from pipeline.configuration.prepared import Prepared
from pipeline.data.feed import Batch
from pipeline.errors import ConfigurationError
from pipeline.learners.naming import Naming
from pipeline.messages import Payload
from pipeline.probes.settings import Split
from pipeline.randomness.keyed import undisturbed

__all__ = ["Network", "Samples", "joined", "take_samples"]

Samples: TypeAlias = Sequence[Batch]
"""Batches of nearly equal size, (x, target) each."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """The stages of a run at one of its checkpoints, in evaluation mode, in one process. Letters: as in `dni`."""

    run: str
    """The name of its folder."""
    step: int
    """Of the checkpoint."""
    stages: tuple[nn.Module, ...]
    naming: tuple[Naming, ...]
    """Of each stage."""
    sources: tuple[GradientSource, ...]
    """At each stage's output, built; the last is the loss."""
    loss: Any
    """As the user wrote it."""
    masks: Mapping[str, Tensor]
    """What is left of parameters that are pruned, bool by key."""
    device: torch.device

    @cached_property
    def whole(self) -> nn.Sequential:
        """All stages in a row. Its names are keys here: a stage's index, a dot and the name in the stage."""
        return nn.Sequential(*self.stages).eval()

    @cached_property
    def learned(self) -> dict[str, Tensor]:
        """The parameters that learn, by key."""
        return {key: own.detach() for key, own in self.whole.named_parameters() if own.requires_grad}

    @cached_property
    def layers(self) -> dict[str, nn.Module]:
        """Every module within a stage by key, those that hold others included."""
        return {key: own for key, own in self.whole.named_modules() if "." in key}

    def stage_of(self, key: str) -> int:
        """The stage that holds a tensor or a module."""
        return int(key.partition(".")[0])

    def name_of(self, key: str) -> str:
        """What a tensor or a module is called in the network before it was cut."""
        index = self.stage_of(key)
        return self.naming[index].full(key.partition(".")[2]) or f"stage {index}"

    def label(self, key: str) -> str:
        """The name, with the stage, as in `stage 1: fc2.weight`."""
        return f"stage {self.stage_of(key)}: {self.name_of(key)}"

    def find_layers(self, names: Iterable[str]) -> list[str]:
        """The keys of layers by their names in the whole network.

        Raises:
            ConfigurationError: there is none of a name.
        """
        keys = {self.name_of(key): key for key in reversed(self.layers)}
        found = []
        for name in names:
            if name not in keys:
                raise ConfigurationError(
                    f"there is no layer {name!r} in the network at step {self.step}; it has {', '.join(sorted(keys))}."
                )
            found.append(keys[name])
        return found

    def mean_loss(self, samples: Samples) -> _MeanLoss:
        """The loss per sample as a function of (output, target), whatever the user's makes of a batch.

        Raises:
            ValueError: it is neither a sum nor a mean over samples.
        """
        x, target = samples[0]
        with torch.no_grad(), undisturbed():
            return _MeanLoss(sum_over_samples(self.loss, self.whole(x), target))

    def true_loss(self, samples: Samples) -> NetworkLoss:
        """As a function of the parameters by key."""
        return NetworkLoss(self.whole, samples, self.loss)

    def used_gradient(self, samples: Samples) -> UsedGradient:
        """What the stages learn from, as a function of the parameters by key."""
        return UsedGradient(self.stages, self.sources, samples, step=self.step)

    def masked(self, direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of all that learns; 0 where nothing was given, and where weights are pruned."""
        found = {key: direction.get(key, torch.zeros_like(own)) for key, own in self.learned.items()}
        return {key: own * self.masks[key].to(own) if key in self.masks else own for key, own in found.items()}


@dataclass(frozen=True)
class _MeanLoss:
    """A loss per sample."""

    summed: Any

    def __call__(self, y: Payload, target: Tensor | None) -> Tensor:
        total: Tensor = self.summed(y, target)
        return total / num_samples(y)


def take_samples(
    prepared: Prepared, *, split: Split, wanted: int | None, default: int, batch: int, device: torch.device
) -> Samples:
    """The first samples of a split, always the same ones.

    Args:
        prepared: the run.
        split: training data come in the order of the run's first epoch.
        wanted: N; None: `default`, or all if there are fewer.
        default: N where nobody asks.
        batch: the most samples of a batch.
        device: where they are put.

    Raises:
        ConfigurationError: there are not as many, or none.
    """
    with undisturbed():
        taken = list(_until(_batches(prepared, split), wanted or default))
    found = sum(num_samples(x) for x, _ in taken)
    if not found:
        remedy = "Give the run test data, or set --split train." if split == "test" else "Give the run data."
        raise ConfigurationError(f"the run has no {split} data to look at. {remedy}")
    if wanted is not None and found < wanted:
        raise ConfigurationError(
            f"samples is {wanted}, but the {split} data hold {found}. Set --samples to at most that."
        )
    x, target = joined(taken)
    count = min(found, wanted or default)
    parts = torch.arange(count).chunk(-(-count // batch))
    return [_cut(x, target, at, device) for at in parts]


def joined(batches: Samples) -> Batch:
    """All of them as one batch."""
    targets = [target for _, target in batches]
    target = None if any(each is None for each in targets) else torch.cat([t for t in targets if t is not None])
    first = batches[0][0]
    if isinstance(first, Tensor):
        return torch.cat([x for x, _ in batches if isinstance(x, Tensor)]), target
    members = zip(*(as_tuple(x) for x, _ in batches), strict=True)
    return tuple(None if own[0] is None else torch.cat([m for m in own if m is not None]) for own in members), target


def _cut(x: Payload, target: Tensor | None, at: Tensor, device: torch.device) -> Batch:
    """The samples at these places."""
    return map_members(lambda own: own[at].to(device), x), None if target is None else target[at].to(device)


def _batches(prepared: Prepared, split: Split) -> Iterator[Batch]:
    if split == "test":
        return iter(prepared.test)
    assert prepared.train is not None
    return itertools.islice(prepared.train.start(0), prepared.outline.steps_per_epoch)


def _until(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        count -= num_samples(batch[0])
        if count <= 0:
            return
