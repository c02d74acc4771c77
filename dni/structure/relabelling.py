"""Does a module compute the same when its units are copied and put in another order?

If the tensors of some units are all known, each unit can be replaced by two that share it, in another order, and the
function stays: whatever was overlooked (a layer that reads them too, a size that is written into the code, an operation
that works across units) makes a difference, or an error. So this is a proof of what was found, for the example at hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni.structure.dependencies import generators_kept
from dni.structure.fit import fit_
from dni.structure.followers import map_tensor
from dni.structure.hidden import Hidden
from dni.structure.origin import Origin, along
from dni.structure.unit_axis import UnitAxis

__all__ = ["agreeing_axes", "disturb_", "doubled", "run_unseen"]


def doubled(hidden: Hidden) -> Origin:
    """Two copies of each unit: within each group all in an order drawn, and then in that order backwards.

    So no reversal, rotation or shuffle by the module goes unseen because it does the same to old and new units.
    """
    size, sources = hidden.num_units // hidden.groups, list[int]()
    generator = torch.Generator().manual_seed(0)
    for first in range(0, hidden.num_units, size):
        order = [first + unit for unit in torch.randperm(size, generator=generator).tolist()]
        sources += [*order, *reversed(order)]
    return Origin(num_old=hidden.num_units, sources=tuple(sources), scale=(0.5,) * len(sources))


def run_unseen(module: nn.Module, x: Tensor) -> Tensor:
    """What the module computes; random numbers that it draws are given back."""
    with generators_kept(module, x), torch.no_grad():
        y: Tensor = module(x.clone())  # it may work in place
    return y


def disturb_(module: nn.Module) -> None:
    """Give all numbers other values, of the same signs: none may be alike, or 0, by the way a layer begins."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for own in (*module.parameters(), *module.buffers()):
            if own.is_floating_point():
                if not bool(own.any()):
                    own.add_(0.1)
                for axis, size in enumerate(own.shape[:2]):  # a number for each row and column: as many draws as needed
                    factor = 0.5 + torch.rand(size, generator=generator)
                    own.mul_(along(factor.to(own), axis, num_axes=own.dim()))


def agreeing_axes(
    module: nn.Module,
    hidden: Hidden,
    x: Tensor,
    before: Tensor,
    *,
    inputs: Sequence[UnitAxis],
    outputs: Sequence[UnitAxis],
) -> tuple[UnitAxis | None, UnitAxis | None]:
    """Put twice the units into a module and find where they lie in its input and its output.

    Args:
        module: a bare copy; changed.
        hidden: the units, by the names of the module.
        x: its input.
        before: its output.
        inputs: where they may lie in it; none: they are not in it.
        outputs: where they may lie in its output; none: they are not in it.

    Raises:
        ValueError: it is another function, or none.
    """
    origin = doubled(hidden)
    _install_(module, hidden, origin)
    failures = []
    for place in inputs or (None,):
        try:
            wide = x if place is None else _widened(x, place, origin)
            after = run_unseen(module, wide)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            failures.append(f"{type(error).__name__}: {error}")
            continue
        for found in outputs or (None,):
            expected = before if found is None else _widened(before, found, origin)
            if _agree(after, expected):
                return place, found
        failures.append(f"the output {tuple(before.shape)} became {tuple(after.shape)}, and another one")
    raise ValueError("; ".join(dict.fromkeys(failures)))


def _install_(module: nn.Module, hidden: Hidden, origin: Origin) -> None:
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    fit_(module, {name: map_tensor(held[name], axes, "value") for name, axes in hidden.axes(origin).items()})


def _widened(h: Tensor, at: UnitAxis, origin: Origin) -> Tensor:
    return at.expand(origin, h.shape[at.axis]).raised(0).apply(h, at.axis)


def _agree(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or not bool(expected.isfinite().all()):
        return False
    # On accelerators float32 may be multiplied with ten bits; what is wrong is wrong by far more than a hundredth.
    tolerance = 1e-8 if expected.dtype == torch.float64 else 1e-2
    return bool(((found - expected).abs() <= tolerance * expected.abs().max()).all())
