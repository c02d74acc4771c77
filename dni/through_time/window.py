"""What does a recurrent network keep of a window of steps, from its forward to its backward?

Letters: T steps in a window, N samples, S numbers of a sample's state (`dni.through_time.recurrent_state`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from dni.members import Members, carriers, like, map_members
from dni.through_time.recurrent_state import as_rows, begin_anew, from_rows

__all__ = ["LossOfSteps", "Window", "begins_of", "ends_of", "run_windows"]

LossOfSteps: TypeAlias = Callable[[Tensor, slice], Tensor]
"""(y, steps) -> the loss of the outputs y, which are of these steps of the span, *summed* over samples: a scalar."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """T steps of a recurrent network, run forward and not yet backward."""

    start: Members | None
    """The state it started from, as leaves; None where every sequence begins here."""
    end: Members
    """The state after its last step."""
    loss: Tensor
    """Of its steps, summed over samples."""
    begins: Tensor
    """(N,) bool: a sequence begins at the start of this window."""
    ends: Tensor
    """(N,) bool: the sequence ends with this window."""
    axis: int
    """Of the samples, in the members of the state."""

    def start_rows(self) -> Tensor:
        """The states that sequences did not begin with, (at most N, S)."""
        assert self.start is not None, "a window that begins all its sequences has no start"
        return as_rows(self.start, self.axis).detach()[~self.begins]

    def end_rows(self) -> Tensor:
        """The states at its end, (N, S)."""
        return as_rows(self.end, self.axis).detach()

    def pull_back(self, used: Tensor, bootstrap: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pull a gradient at the end back to the start, through this window's steps and with its loss.

        Args:
            used: (N, S) at the end; with the loss, it gives every parameter its gradient, added to `.grad`.
            bootstrap: (N, S) at the end, which no parameter sees; None: the same as `used`.

        Returns:
            The gradients at the start that come of `used` and of `bootstrap`, (N, S); zero for the samples whose
            sequence begins there.
        """
        more: Tensor | float = 0.0
        if bootstrap is not None and self.start is not None:
            # By linearity; so the loss is pulled back only once.
            more = self._pulled(bootstrap - used)
        outputs = list(self._at_end(used))
        if self.loss.requires_grad:
            outputs.append((self.loss, torch.ones_like(self.loss)))
        if outputs:
            tensors, gradients = zip(*outputs, strict=True)
            torch.autograd.backward(tensors, gradients)
        if self.start is None:
            return torch.zeros_like(used), torch.zeros_like(used)
        leaves = carriers(self.start)
        grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        begins, pulled = self.begins[:, None], as_rows(like(self.start, grads), self.axis)
        return pulled.masked_fill(begins, 0.0), (pulled + more).masked_fill(begins, 0.0)

    def _pulled(self, rows: Tensor) -> Tensor:
        """A gradient at the end, pulled back to the start alone; the graph is kept."""
        assert self.start is not None
        outputs = list(self._at_end(rows))
        if not outputs:
            return torch.zeros_like(rows)
        tensors, gradients = zip(*outputs, strict=True)
        leaves = carriers(self.start)
        grads = torch.autograd.grad(tensors, leaves, gradients, retain_graph=True, materialize_grads=True)
        return as_rows(like(self.start, grads), self.axis)

    def _at_end(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The members of the end that depend on anything, each with its part of `rows`."""
        for member, gradient in zip(carriers(self.end), from_rows(rows, self.end, self.axis), strict=True):
            if member.requires_grad:
                yield member, gradient


def run_windows(
    core: nn.Module,
    x: Tensor,
    loss_of: LossOfSteps,
    *,
    horizon: int,
    state: Members | None,
    begins: Tensor,
    ends: Tensor,
    axis: int,
) -> list[Window]:
    """Run `core` over x in windows of `horizon` steps; no graph reaches from one into another.

    Args:
        x: (steps, N, ...).
        state: where the first window starts; None: at the beginning of sequences.
        begins: (N,) bool: whose sequences begin with the first window.
        ends: (K, N) bool: whose sequences end with each window.

    Raises:
        ValueError: the loss is no scalar, or the state does not have N samples on `axis`.
    """
    windows = []
    for first, ended in zip(range(0, x.shape[0], horizon), ends, strict=True):
        steps = slice(first, min(first + horizon, x.shape[0]))
        start = None if state is None else map_members(_leaf, state)
        y, end = core(x[steps], start)
        loss = loss_of(y, steps)
        if loss.dim() > 0:
            raise ValueError(
                "loss_of must return the loss summed over samples, a scalar, got shape "
                f"{tuple(loss.shape)} for steps {steps.start} to {steps.stop - 1}. Sum it."
            )
        windows.append(Window(start=start, end=end, loss=loss, begins=begins, ends=ended, axis=axis))
        state, begins = begin_anew(end, ended, axis), ended
    return windows


def begins_of(x: Tensor, before: Tensor | None) -> Tensor:
    """(N,) bool: whose sequences begin with the span x, (steps, N, ...); `before`: whose ended with the one before.

    Raises:
        ValueError: x has no steps or samples, or not as many samples as the span before.
    """
    if x.dim() < 2 or x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"x must be (steps, N, ...) with at least one step and sample, got shape {tuple(x.shape)}.")
    if before is None:
        return torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
    if before.shape[0] != x.shape[1]:
        raise ValueError(
            f"the state carried from the span before is of {before.shape[0]} samples, x is (steps, N, ...) of shape "
            f"{tuple(x.shape)}. Keep N from span to span, or call begin() where new sequences begin."
        )
    return before


def ends_of(x: Tensor, done: Tensor | None, *, horizon: int) -> Tensor:
    """(K, N) bool: whose sequences end with each window of the span x.

    Raises:
        ValueError: `done` is not None, (N,) bool or (K, N) bool.
    """
    num_windows, num_samples = -(-x.shape[0] // horizon), x.shape[1]
    ends = torch.zeros(num_windows, num_samples, dtype=torch.bool, device=x.device)
    if done is None:
        return ends
    if done.dtype != torch.bool or done.shape not in ((num_samples,), (num_windows, num_samples)):
        raise ValueError(
            f"done must be bool of shape ({num_samples},), at the end of the span, or ({num_windows}, {num_samples}), "
            f"at the end of each window of {horizon} steps, got {done.dtype} of shape {tuple(done.shape)}."
        )
    if done.dim() == 2:
        return done.to(x.device)
    ends[-1] = done
    return ends


def _leaf(member: Tensor) -> Tensor:
    return member.detach().requires_grad_() if member.is_floating_point() else member
