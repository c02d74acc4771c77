"""Which two small matrices make up the Hessian of a layer, if its inputs tell nothing of what is above it?

Letters: a weight W is m outputs by n inputs (a kernel flattened), z = W x at each of T places, y the module's output of
D numbers a sample. A vector of P = m n entries is W row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import grad, jvp

from dni.hessians.eigen import Eigenpairs
from dni.hessians.objective import Batch, Objective
from dni.hessians.operator import SymmetricOperator
from dni.hessians.patches import check_matrix_layer, inputs_by_place, outputs_by_place

__all__ = ["KroneckerFactors", "kronecker_factors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KroneckerFactors:
    """E[M] and E[x xᵀ], whose Kronecker product is near the Hessian of a layer's weight."""

    output: Tensor
    """E[M], (m, m), of M = Jᵀ A J, the Gauss-Newton matrix of the loss by z; times N if the loss is a sum."""
    input: Tensor
    """E[x xᵀ], (n, n)."""
    mean_input: Tensor
    """E[x], (n,)."""
    shape: torch.Size
    """The weight's, (m, ...)."""

    def operator(self) -> SymmetricOperator:
        """E[M] ⊗ E[x xᵀ], (P, P): V -> E[M] V E[x xᵀ] of V, (m, n)."""
        m, n = len(self.output), len(self.input)
        return SymmetricOperator(
            size=m * n,
            dtype=self.output.dtype,
            device=self.output.device,
            product=lambda vector: (self.output @ vector.reshape(m, n) @ self.input).reshape(-1),
        )

    def eigenpairs(self, k: int) -> Eigenpairs:
        """The k largest eigenvalues: products of one of each factor, with vectors a ⊗ b.

        Raises:
            ValueError: k is not from 1 to P.
        """
        size = len(self.output) * len(self.input)
        if not 1 <= k <= size:
            raise ValueError(f"k must be from 1 to the {size} entries of the weight, got {k}.")
        (a, left), (b, right) = torch.linalg.eigh(self.output), torch.linalg.eigh(self.input)
        values, places = torch.outer(a, b).reshape(-1).topk(k)
        rows, columns = places // len(b), places % len(b)
        vectors = torch.einsum("mk,nk->mnk", left[:, rows], right[:, columns]).reshape(size, k)
        product = self.operator()
        errors = torch.stack(
            [torch.linalg.vector_norm(product(v) - c * v) for c, v in zip(values, vectors.T, strict=True)]
        )
        return Eigenpairs(values=values, vectors=vectors, residuals=errors, num_products=0)

    def correspondence(self, vectors: Tensor) -> Tensor:
        """How much of each vector lies along each pair of eigenvectors of the factors: (h · a_i ⊗ b_j)².

        If the factors explain the Hessian, each of its eigenvectors has nearly all at one place, and that in the first
        rows or columns. Source: Wu et al. 2020 (arXiv 2010.04261), correspondence of eigenvectors.

        Args:
            vectors: orthonormal h, (P, k), of the weight alone.

        Returns:
            (k, m, n), each adding up to 1; the eigenvalues of both factors fall with the indices.

        Raises:
            ValueError: they are not of this weight.
        """
        m, n = len(self.output), len(self.input)
        if vectors.dim() != 2 or len(vectors) != m * n:
            raise ValueError(
                f"vectors must be (P, k) with the P = {m * n} entries of the weight {tuple(self.shape)}, got "
                f"{tuple(vectors.shape)}. Choose the weight alone, as parameters=['layer.weight']."
            )
        left, right = (torch.linalg.eigh(factor)[1].flip(1) for factor in (self.output, self.input))
        return torch.einsum("kmn,mi,nj->kij", vectors.T.reshape(-1, m, n), left, right).square()


def kronecker_factors(
    objective: Objective, layer: str, *, progress: Callable[[int, int], object] | None = None
) -> KroneckerFactors:
    """The factors of a layer's weight: H = E[M ⊗ x xᵀ] ≈ E[M] ⊗ E[x xᵀ].

    M is that of the Gauss-Newton matrix; the Hessian of the weight has the same M if what is above the layer is
    piecewise linear. With several places the approximation further takes them for independent and alike: the factors
    are the sum over places of x xᵀ and the mean over places of M. For each batch D gradients by z are computed, and D
    derivatives of the loss by y; (N, D, D) numbers are held.
    Source: Wu et al. 2020 (arXiv 2010.04261), decoupling conjecture; for convolutions Grosse and Martens 2016 (arXiv
    1602.01407).

    Args:
        objective: the loss. Which parameters it is a function of does not matter. Each sample's part of the loss must
            depend on that sample only.
        layer: name of a Linear, Conv1d or Conv2d in its module.
        progress: told how many gradients are done, of how many.

    Raises:
        ValueError: there is no such layer, a forward does not use it exactly once, or the output does not depend on it.
        TypeError: it is of another kind, or the module's output is not one tensor.
    """
    modules = dict(objective.module.named_modules())
    if layer not in modules:
        raise ValueError(f"there is no layer {layer!r} in the module; it has {', '.join(filter(None, modules))}.")
    chosen = check_matrix_layer(layer, modules[layer])
    width = chosen.weight[0].numel()
    output, input_ = (torch.zeros(size, size).to(chosen.weight) for size in (len(chosen.weight), width))
    mean, num_places = torch.zeros(width).to(input_), 0
    for index in range(objective.num_batches):
        batch = objective.batch(index)
        x, z, y = _watched(objective.module, layer, chosen, batch)
        places = inputs_by_place(chosen, x)
        input_ += torch.einsum("nit,njt->ij", places, places)
        mean += places.sum((0, 2))
        num_places += places.shape[0] * places.shape[2]

        def done(directions: int, of: int, index: int = index) -> None:
            if progress is not None:
                progress(index * of + directions, objective.num_batches * of)

        for size, gradient in _weighted_gradients(objective, y, z, batch, done):
            by_place = outputs_by_place(chosen, gradient)
            output += torch.einsum("n,nit,njt->ij", size, by_place, by_place) / by_place.shape[2]
    return KroneckerFactors(
        output=(output + output.T) * (objective.scale / 2),
        input=(input_ + input_.T) / (2 * objective.num_samples),
        mean_input=mean / num_places,
        shape=chosen.weight.shape,
    )


def _watched(module: nn.Module, name: str, layer: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What the layer is given, its output as a leaf of the graph, and the module's output."""
    calls: list[tuple[Tensor, Tensor]] = []

    def cut(layer: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Tensor:
        leaf = z.detach().requires_grad_()
        calls.append((args[0].detach().clone(), leaf))  # what follows may work in place
        return leaf.clone()

    handle = layer.register_forward_hook(cut, prepend=True)
    try:
        with torch.enable_grad():
            y = module(batch[0])
    finally:
        handle.remove()
    if len(calls) != 1:
        raise ValueError(
            f"{name} must be called once in a forward for its Hessian to have two factors, it is called {len(calls)} "
            "times. Choose another layer."
        )
    if not isinstance(y, Tensor):
        raise TypeError(f"the module's output must be one tensor for two factors to be known, got {type(y).__name__}.")
    if not y.requires_grad:
        raise ValueError(f"the module's output does not depend on {name}. Choose another layer.")
    return *calls[0], y


def _weighted_gradients(
    objective: Objective, y: Tensor, z: Tensor, batch: Batch, done: Callable[[int, int], object]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights λ, (N,), and gradients g by z such that M of each sample is the sum of λ g gᵀ over them.

    Of A = Σ λ q qᵀ by y, a sample at a time, g = Jᵀ q. So M costs D backward passes, in the memory of one.
    """
    weights, directions = torch.linalg.eigh(_curvature_by_output(objective, y.detach(), batch))
    largest = weights.abs().max()
    for index in range(weights.shape[1]):
        weight = weights[:, index]
        if bool((weight.abs() > torch.finfo(weight.dtype).eps * largest).any()):
            direction = directions[:, :, index].reshape(y.shape)
            yield weight, torch.autograd.grad(y, z, direction, retain_graph=True)[0]
        done(index + 1, weights.shape[1])


def _curvature_by_output(objective: Objective, y: Tensor, batch: Batch) -> Tensor:
    """A, (N, D, D): the second derivative of the loss by the module's output, for each sample."""
    slope = grad(partial(objective.loss_of_output, target=batch[1]))
    units = torch.eye(y[0].numel()).to(y)
    columns = [jvp(slope, (y,), (unit.repeat(len(y), 1).reshape(y.shape),))[1].flatten(1) for unit in units]
    bent = torch.stack(columns, dim=2)
    return (bent + bent.transpose(1, 2)) / 2
