"""What is the loss, as a function of some parameters alone?

Everything else is held: other parameters, buffers, batches. What is evaluated is a copy, so that the module that trains
is not touched, and may go on training.

Letters: P chosen numbers, N samples, F features.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dni.members import Members, as_tuple, map_members, num_samples
from dni.sources.loss import sum_over_samples
from dni.structure.dependencies import bare_copy, generators_kept

__all__ = ["Batch", "Objective", "Over"]

Batch: TypeAlias = tuple[Members, Tensor | None]
"""A network's input, (N, *F), and what the loss compares its output with."""

Over: TypeAlias = Literal["mean", "sum"]
"""What is made of the losses of the samples of all batches."""


@final
class Objective:
    """The loss of a module over some batches, as a function of chosen parameters.

    Built once, from the parameters' values at that moment; later updates of the module are not seen.

    Args:
        module: a network, a stage, or several in a row (`nn.Sequential`). Copied, in `dtype`. Hooks that watch it
            (methods, closures) are left out, as are its gradients.
        loss: a callable of (output, target), with any reduction: brought to the sum over samples, as for training.
        batches: (x, target) each; held, not copied. The last one may be shorter.
        parameters: names of parameters, or of modules (all their parameters). None: all that learn.
        dtype: in which everything is computed; floating-point members of the batches are cast. In float32 products are
            about twice as fast, and eigenvalues below 1e-6 of the largest are noise.
        over: "mean" divides by the samples of all batches, "sum" does not.

    Raises:
        ValueError: there is no parameter or module of a name, a parameter is chosen twice, frozen, or tied, there are
            no batches, a layer is one of dropout or BatchNorm in training mode, the loss is not finite, or it is
            another one at a second evaluation.
        TypeError: the module cannot be copied, or `dtype` is not a floating-point type.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: object,
        batches: Iterable[Batch],
        *,
        parameters: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float64,
        over: Over = "mean",
    ) -> None:
        if not dtype.is_floating_point:
            raise TypeError(f"products with a Hessian need a floating-point type, got {dtype}. Take torch.float64.")
        _load_forward_mode()
        chosen = _chosen(module, parameters)
        _check_modes(module)
        self.dtype = dtype
        self.module = _copied(module, dtype)
        held = dict(self.module.named_parameters(remove_duplicate=False))
        self.values: dict[str, Tensor] = {name: held[name].detach() for name in chosen}
        """The chosen parameters, by name, in the order in which they lie in a flat vector."""
        self.shapes: dict[str, torch.Size] = {name: value.shape for name, value in self.values.items()}
        self.size = sum(value.numel() for value in self.values.values())
        self.device = next(iter(self.values.values())).device
        self._batches = list(batches)
        if not self._batches:
            raise ValueError("a loss needs samples, got no batches. Pass a list of (x, target).")
        self.num_samples = sum(num_samples(x) for x, _ in self._batches)
        self.scale = 1.0 / self.num_samples if over == "mean" else 1.0
        """What the sum over samples is multiplied by."""
        x, target = self.batch(0)
        with generators_kept(self.module, next(x for x in as_tuple(x) if x is not None)), torch.no_grad():
            self._summed = sum_over_samples(loss, self.module(x), target)
            self._check_repeatable()

    @property
    def num_batches(self) -> int:
        """How many batches the loss goes over."""
        return len(self._batches)

    def batch(self, index: int) -> Batch:
        """A batch of one's own, in the dtype and place of the parameters."""
        x, target = self._batches[index]
        return map_members(self._own, x), None if target is None else self._own(target)

    def output(self, values: Mapping[str, Tensor], x: Members) -> Members:
        """What the module computes with these values for the chosen parameters."""
        y: Members = functional_call(self.module, dict(values), (x,))
        return y

    def loss_of_output(self, y: Members, target: Tensor | None) -> Tensor:
        """The loss summed over the samples of a batch, a scalar."""
        return self._summed(y, target)

    def loss(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The loss summed over the samples of a batch, with these values for the chosen parameters."""
        x, target = batch
        return self._summed(self.output(values, x), target)

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """One vector, (P,), of a tensor for each chosen parameter, each row by row."""
        return torch.cat([tensors[name].reshape(-1) for name in self.shapes])

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """The tensor of each chosen parameter in a vector, (P,)."""
        parts = torch.split(vector, [shape.numel() for shape in self.shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def _own(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(device=self.device, dtype=dtype, copy=True)

    def _check_repeatable(self) -> None:
        """Evaluate the first batch twice. The generators are given back by who calls."""
        buffers = {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        drawn = torch.default_generator.get_state()
        first, second = (float(self.loss(self.values, self.batch(0))) for _ in range(2))
        remedy = "Call eval() on it, or leave what changes out."
        if not torch.equal(drawn, torch.default_generator.get_state()):
            raise ValueError(f"a Hessian needs a loss that is always the same, but the module draws numbers. {remedy}")
        for name, buffer in self.module.named_buffers():
            if not torch.equal(buffer, buffers[name]):
                raise ValueError(
                    f"a Hessian needs a module that stays as it is, but its forward changes {name}. {remedy}"
                )
        if first != first or abs(first) == float("inf"):
            raise ValueError(f"a Hessian needs a loss that is finite, got {first} on the first batch.")
        # Sums on accelerators may be taken in another order.
        if abs(first - second) > 100 * torch.finfo(self.dtype).eps * abs(first):
            raise ValueError(
                "a Hessian needs a loss that is always the same, but on the first batch it is "
                f"{first:.9g} and then {second:.9g}. {remedy}"
            )


def _chosen(module: nn.Module, names: Sequence[str] | None) -> list[str]:
    """The parameters behind the names, each once."""
    held = dict(module.named_parameters(remove_duplicate=False))
    if names is None:
        names = [name for name, _ in module.named_parameters() if held[name].requires_grad]
    chosen = [own for name in names for own in _within(module, held, name)]
    if not chosen:
        raise ValueError("at least one parameter must be chosen, got none. Name a layer that learns.")
    for name in chosen:
        aliases = [other for other, parameter in held.items() if parameter is held[name]]
        if chosen.count(name) > 1:
            raise ValueError(f"{name} is chosen {chosen.count(name)} times. Name a layer, or its parameters, once.")
        if len(aliases) > 1:
            raise ValueError(
                f"a chosen parameter must have one place, but {' and '.join(aliases)} are tied. Untie them, or choose "
                "others."
            )
        if not held[name].requires_grad:
            raise ValueError(
                f"{name} does not learn (requires_grad is False), so the loss has no Hessian by it here. Choose "
                "others, or let it learn."
            )
    return chosen


def _within(module: nn.Module, held: Mapping[str, Tensor], name: str) -> list[str]:
    if name in held:
        return [name]
    layers = dict(module.named_modules())
    if name not in layers:
        raise ValueError(
            f"there is no parameter or layer {name!r} in the module; it has {', '.join(held) or 'no parameters'}."
        )
    own = [f"{name}.{rest}" if name else rest for rest, _ in layers[name].named_parameters()]
    if not own:
        raise ValueError(f"{name} ({type(layers[name]).__name__}) has no parameters. Choose a layer that has.")
    return own


def _check_modes(module: nn.Module) -> None:
    for name, layer in module.named_modules():
        if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0:
            what = "draws numbers in training mode"
        elif isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            what = "makes samples depend on each other, by the statistics of a batch"
        else:
            continue
        raise ValueError(
            f"a Hessian needs a loss that is a function of the parameters and of one sample at a time, but {name!r} "
            f"({type(layer).__name__}) {what}. Call eval() on the module (or on a copy), with running statistics."
        )


def _load_forward_mode() -> None:
    """The first forward derivative loads torch's rules for them, which warn of calls of torch's own (2.13)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.sin, (torch.zeros(()),), (torch.zeros(()),))


def _copied(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    copied = bare_copy(module)
    for own, original in zip(copied.modules(), module.modules(), strict=True):
        own.training = original.training
    for parameter in copied.parameters():
        parameter.grad = None
    return copied.requires_grad_(False).to(dtype)
