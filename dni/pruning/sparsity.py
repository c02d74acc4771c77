"""How dense is each layer of a sparse network, and where does it begin?

A density is the share of a tensor that is kept, by name. Letters: n_l numbers in tensor l, p_l its density.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from dni.cadences.blocks import Shapes
from dni.pruning.selection import lowest
from dni.structure.keyed import Keyed, draw_uniform

__all__ = ["erdos_renyi", "erdos_renyi_epsilon", "erdos_renyi_kernel", "random_masks", "uniform_density"]


def uniform_density(shapes: Shapes, density: float, *, dense: Sequence[str] = ()) -> dict[str, float]:
    """The same density everywhere, but for what stays dense and is not counted (in RigL, the first layer).

    Raises:
        ValueError: the density is not in (0, 1], or `dense` names what is not there.
    """
    _check(shapes, density, dense)
    return {name: 1.0 if name in dense else density for name in shapes}


def erdos_renyi(shapes: Shapes, density: float, *, dense: Sequence[str] = ()) -> dict[str, float]:
    """Wide layers sparser, by outputs and inputs: p_l = ε (n_out + n_in) / (n_out n_in).

    ε is such that as many numbers stay over all tensors as with `uniform_density`. A tensor that would need more than
    there are stays dense, and the others give for it.    Source: Mocanu et al. 2018 (arXiv 1707.04780) for the form,
    Evci et al. 2020 (RigL, arXiv 1911.11134) for ε and for dense tensors.

    Args:
        shapes: (out, in, kernel...) by name.
        density: of all of them together, but for `dense`.
        dense: names that stay dense and are not counted.

    Raises:
        ValueError: the density is not in (0, 1], a shape has fewer than two axes, or `dense` names what is not there.
    """
    return _erdos_renyi(shapes, density, dense, lambda shape: sum(shape[:2]) / prod(shape[:2]))


def erdos_renyi_kernel(shapes: Shapes, density: float, *, dense: Sequence[str] = ()) -> dict[str, float]:
    """`erdos_renyi` with the axes of the kernel: p_l = ε (n_out + n_in + k_1 + ...) / (n_out n_in k_1 ...), ERK.

    Source: Evci et al. 2020 (RigL, arXiv 1911.11134), section 3, and its code.
    """
    return _erdos_renyi(shapes, density, dense, lambda shape: sum(shape) / prod(shape))


def erdos_renyi_epsilon(shapes: Shapes, epsilon: float = 20.0) -> dict[str, float]:
    """SET's own form: p_l = min(1, ε (n_out + n_in) / (n_out n_in)), with ε given.

    Source: Mocanu et al. 2018 (arXiv 1707.04780), eq. 1; ε = 20 in their code.

    Raises:
        ValueError: ε is not positive, or a shape has fewer than two axes.
    """
    if not epsilon > 0.0:
        raise ValueError(f"ε must be positive, got {epsilon}: a layer pruned to nothing.")
    _check(shapes, 1.0, ())
    return {name: min(1.0, epsilon * sum(shape[:2]) / prod(shape[:2])) for name, shape in shapes.items()}


def random_masks(shapes: Shapes, densities: Mapping[str, float], keyed: Keyed) -> dict[str, Tensor]:
    """Keep round(p_l n_l) numbers of each tensor, drawn.

    Args:
        shapes: by name.
        densities: p by name, of all of them.
        keyed: a generator for each name.

    Returns:
        What is kept, bool by name, on the CPU.

    Raises:
        ValueError: a shape has no density, or nothing of a tensor would be kept.
    """
    kept = {}
    for name, shape in shapes.items():
        if name not in densities:
            raise ValueError(f"every tensor needs a density, found none for {name}; there are {', '.join(densities)}.")
        size = prod(shape)
        count = round(densities[name] * size)
        if not 1 <= count <= size:
            raise ValueError(
                f"between 1 and {size} numbers of {name} must be kept, got {count} (density {densities[name]}). "
                "Raise the density, or leave the layer out."
            )
        # By the lowest of as many numbers, which takes a third of the time of putting the places in an order.
        drawn = draw_uniform(keyed, name, torch.empty(size, dtype=torch.float64))
        kept[name] = lowest(drawn, count).view(shape)
    return kept


def _erdos_renyi(
    shapes: Shapes, density: float, dense: Sequence[str], weight: Callable[[Sequence[int]], float]
) -> dict[str, float]:
    _check(shapes, density, dense)
    full: set[str] = set()
    while True:
        sparse = {name: shape for name, shape in shapes.items() if name not in full and name not in dense}
        counted = sum(prod(shape) for name, shape in shapes.items() if name not in dense)
        left = density * counted - sum(prod(shapes[name]) for name in full)
        weighted = sum(weight(shape) * prod(shape) for shape in sparse.values())
        epsilon = left / weighted if weighted else 0.0
        too_many = {name for name, shape in sparse.items() if epsilon * weight(shape) > 1.0}
        if not too_many:
            return {name: epsilon * weight(shape) if name in sparse else 1.0 for name, shape in shapes.items()}
        # One after the other, the most demanding first: the others' ε falls, and may then be small enough for all.
        full.add(max(too_many, key=lambda name: weight(sparse[name])))


def _check(shapes: Shapes, density: float, dense: Sequence[str]) -> None:
    if not 0.0 < density <= 1.0:
        raise ValueError(f"a density must lie in (0, 1], got {density}; 0 is a layer pruned to nothing.")
    for name in dense:
        if name not in shapes:
            raise ValueError(f"what stays dense must be there, got {name}; there are {', '.join(shapes)}.")
    for name, shape in shapes.items():
        if len(shape) < 2:
            raise ValueError(
                f"the density of {name} must come from its inputs and outputs, but its shape is {tuple(shape)}. "
                "Give weights only; biases and normalisations stay dense."
            )
