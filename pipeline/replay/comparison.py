"""Do stages hold the same bits as the checkpoints of their run, and if not, which tensor differs first, by how much?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.configuration.conditions import Conditions
from pipeline.errors import CheckpointError
from pipeline.records.checkpoint import read_stage
from pipeline.records.manifest import checkpoint_folder, saved_steps, verify
from pipeline.stages.stage import Stage

__all__ = ["Comparison", "Difference", "compare_states", "refusals"]


@dataclass
class Comparison:
    """Compares stages with the checkpoints of a run, as they come to them."""

    checkpoints: Path
    refused: list[str]
    """Why the same bits cannot be expected, so that nothing is compared; empty: they can."""
    num_tensors: dict[tuple[int, int], int] = field(default_factory=dict)
    """By (step, stage), the tensors that were compared."""
    differences: dict[tuple[int, int], list[Difference]] = field(default_factory=dict)
    """By (step, stage), where there are any."""
    damaged: list[str] = field(default_factory=list)
    """What is wrong with checkpoints that are there and cannot be compared with."""
    _folders: dict[int, Path | None] = field(default_factory=dict)

    @property
    def equal(self) -> bool:
        """Whether something was compared and nothing differs."""
        return bool(self.num_tensors) and not self.differences and not self.damaged

    def add(self, stage: Stage, step: int) -> None:
        """Compare a stage with what was saved of it at `step`, if that is still there."""
        own = stage.state_dict()  # finds what is not finite, as saving it did
        folder = None if self.refused else self._folder(step)
        if folder is None:
            return
        saved = read_stage(folder, stage.index, device=stage.device)
        self.num_tensors[step, stage.index], differences = compare_states(own, saved)
        if differences:
            self.differences[step, stage.index] = differences

    def lines(self) -> list[str]:
        """What has come out, in words."""
        lines = [f"not compared: {reason}" for reason in self.refused]
        steps = sorted({step for step, _ in self.num_tensors})
        if self.differences:
            lines.append(self._first_difference())
        elif steps:
            num_stages = len({stage for _, stage in self.num_tensors})
            lines.append(
                f"equal, bit for bit: {sum(self.num_tensors.values()):,} tensors of {num_stages} stages, "
                f"at the checkpoint{'s' * (len(steps) > 1)} of step {_listed(steps)}"
            )
        elif not self.refused and not self.damaged:
            lines.append("not compared: no checkpoint of a step that was replayed is left")
        return lines + [f"not compared: {what}" for what in self.damaged]

    def _folder(self, step: int) -> Path | None:
        """The checkpoint of `step`, if it is there and as it was written."""
        if step not in self._folders:
            self._folders[step] = None
            if step in saved_steps(self.checkpoints):
                folder = checkpoint_folder(self.checkpoints, step)
                try:
                    verify(folder)
                    self._folders[step] = folder
                except CheckpointError as error:
                    self.damaged.append(str(error))
        return self._folders[step]

    def _first_difference(self) -> str:
        step, stage = min(self.differences)
        first, *others = self.differences[step, stage]
        same = sorted({at for at, _ in self.num_tensors if at < step})
        before = f"equal up to the checkpoint of step {same[-1]:,}" if same else "none was equal before"
        return (
            f"different: stage {stage} at the checkpoint of step {step:,}: {first.name} {first.how} "
            f"({len(others)} more of this stage differ; {before})"
        )


def _listed(steps: Sequence[int]) -> str:
    if len(steps) <= 4:
        return ", ".join(f"{step:,}" for step in steps)
    return f"{steps[0]:,}, {steps[1]:,}, ... {steps[-1]:,} ({len(steps)} of them)"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that two states do not have in common."""

    name: str
    """Where it is: the keys that lead to it, with slashes between."""
    how: str
    """What is different, in words."""


def compare_states(own: Any, saved: Any) -> tuple[int, list[Difference]]:
    """Compare nested states bit for bit.

    Args:
        own: mappings and sequences of tensors and plain values.
        saved: what it should be.

    Returns:
        How many tensors were compared, and what differs, in the order of `own`.
    """
    num_tensors, differences = 0, []
    for name, one, other in _pairs("", own, saved):
        num_tensors += isinstance(one, Tensor)
        how = _difference(one, other)
        if how is not None:
            differences.append(Difference(name=name, how=how))
    return num_tensors, differences


def refusals(conditions: Sequence[Sequence[Conditions]], *, here: Conditions, exact_feed: bool) -> list[str]:
    """Why the bits of a run cannot be expected here.

    Args:
        conditions: of each stage, those of its attempts.
        here: those of today.
        exact_feed: whether the data comes again as it was.
    """
    stages: dict[str, list[str]] = {}
    for index, attempts in enumerate(conditions):
        for difference in dict.fromkeys(words for own in attempts for words in own.differences(here)):
            stages.setdefault(difference, []).append(str(index))
    reasons = [f"{difference} (stage {', '.join(indices)})" for difference, indices in stages.items()]
    if not exact_feed:
        reasons.append("the data is read, not keyed by the step, and may not come again as it was; KeyedBatches does")
    return reasons


class _Missing:
    def __repr__(self) -> str:
        return "missing"


_MISSING = _Missing()


def _pairs(name: str, own: Any, saved: Any) -> Iterator[tuple[str, Any, Any]]:
    """The leaves, with their names."""
    if isinstance(own, Mapping) and isinstance(saved, Mapping):
        for key in [*own, *(key for key in saved if key not in own)]:
            yield from _pairs(_join(name, key), own.get(key, _MISSING), saved.get(key, _MISSING))
    elif _is_list(own) and _is_list(saved):
        for index in range(max(len(own), len(saved))):
            one, other = (values[index] if index < len(values) else _MISSING for values in (own, saved))
            yield from _pairs(_join(name, index), one, other)
    else:
        yield name, own, saved


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _join(name: str, key: object) -> str:
    return f"{name}/{key}" if name else str(key)


def _difference(own: Any, saved: Any) -> str | None:
    if isinstance(own, Tensor) and isinstance(saved, Tensor):
        return _tensor_difference(own, saved)
    if isinstance(own, Tensor) or isinstance(saved, Tensor):
        return f"is {_described(own)}, saved is {_described(saved)}"
    same = type(own) is type(saved) and (own == saved or (own != own and saved != saved))
    return None if same else f"is {own!r}, saved is {saved!r}"


def _tensor_difference(own: Tensor, saved: Tensor) -> str | None:
    if (own.shape, own.dtype) != (saved.shape, saved.dtype):
        return f"is {_described(own)}, saved is {_described(saved)}"
    num_differing = int((_bits(own) != _bits(saved)).any(dim=1).sum())
    if num_differing == 0:
        return None
    where = f"in {num_differing:,} of {own.numel():,} elements"
    if not (own.is_floating_point() or own.is_complex()):
        return f"differs {where}"
    wide = torch.complex128 if own.is_complex() else torch.float64
    most = (own.detach().to(wide) - saved.to(wide)).abs().max().item()
    return f"differs {where}, by up to {most:.3g}"


def _bits(tensor: Tensor) -> Tensor:
    """(numel, bytes of an element): equal only where every bit is, also of -0.0 and NaN."""
    return tensor.detach().contiguous().view(-1, 1).view(torch.uint8)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return repr(value)
