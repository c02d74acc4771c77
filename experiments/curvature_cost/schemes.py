"""Which ways of computing gradient, Hessian and diagonal third order by subset are compared?

All of the same arguments and to the same Summary. The paper's is written here from its equations, as a user would write
it; the two others are the package's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from dni import Loss, ParameterPartition, Summary, loss_parts, summarise, summarise_chain

__all__ = ["SCHEMES", "Problem", "Scheme", "papers", "plain_pass"]

_LOSS = nn.CrossEntropyLoss()


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be summarised: a batch, and a direction with one subset to a tensor."""

    module: nn.Module
    x: Tensor
    target: Tensor
    direction: Mapping[str, Tensor]
    partition: ParameterPartition

    @classmethod
    def along_the_gradient(cls, module: nn.Module, x: Tensor, target: Tensor) -> Problem:
        """u is the gradient of the batch; the partition is the paper's canonical one."""
        own = dict(module.named_parameters())
        gradients = torch.autograd.grad(_LOSS(module(x), target), list(own.values()))
        partition = ParameterPartition.by_tensor({name: tuple(each.shape) for name, each in own.items()})
        direction = dict(zip(own, gradients, strict=True))
        return cls(module=module, x=x, target=target, direction=direction, partition=partition)


Scheme: TypeAlias = Callable[[Problem, int | None], Summary]
"""Of a problem and samples at once; None: all."""


def plain_pass(problem: Problem) -> None:
    """The unit: one forward and one backward pass, to the gradients of all parameters."""
    own = list(problem.module.parameters())
    torch.autograd.grad(_LOSS(problem.module(problem.x), problem.target), own)


def papers(problem: Problem, samples_at_once: int | None) -> Summary:
    """One forward and 2S + 1 backward passes; the graph of the first is kept.

    Source: Wolinski 2023 (arXiv 2312.03885): g_s = <dL/dtheta_s, u_s>; row s of H by a backward pass of g_s to the
    tensors from s on, contracted with u; D_sss by one of H_ss to tensor s. Differs: subsets are tensors.
    """
    size = problem.partition.num_subsets
    g, h, d = (torch.zeros(shape, dtype=torch.float64) for shape in ((size,), (size, size), (size,)))
    parts = loss_parts(problem.module, _LOSS, problem.x, problem.target, samples_at_once=samples_at_once)
    for part in parts:
        _add_papers(part, problem, g, h, d)
    upper = h.triu(1)
    hessian = upper + upper.T + h.diagonal().diag()
    return Summary(names=problem.partition.names, gradient=g, hessian=hessian, third=d)


def _add_papers(part: Loss, problem: Problem, g: Tensor, h: Tensor, d: Tensor) -> None:
    own = {name: each.detach().requires_grad_() for name, each in problem.module.named_parameters()}
    tensors, u = list(own.values()), [problem.direction[name] for name in own]
    gradients = torch.autograd.grad(part(own), tensors, create_graph=True)
    first = [(each * along).sum() for each, along in zip(gradients, u, strict=True)]
    g += torch.stack(first).detach().double()
    for s in range(len(tensors)):
        row = torch.autograd.grad(first[s], tensors[s:], create_graph=True, materialize_grads=True)
        second = [(each * along).sum() for each, along in zip(row, u[s:], strict=True)]
        h[s, s:] += torch.stack(second).detach().double()
        (third,) = torch.autograd.grad(second[0], tensors[s], retain_graph=True, materialize_grads=True)
        d[s] += (third * u[s]).sum().double()


def _reference(problem: Problem, samples_at_once: int | None) -> Summary:
    parts = loss_parts(problem.module, _LOSS, problem.x, problem.target, samples_at_once=samples_at_once)
    own = dict(problem.module.named_parameters())
    return summarise(parts, own, problem.direction, problem.partition)


def _fast(problem: Problem, samples_at_once: int | None) -> Summary:
    arguments = problem.x, problem.target, problem.direction, problem.partition
    return summarise_chain(problem.module, _LOSS, *arguments, samples_at_once=samples_at_once)


SCHEMES: Mapping[str, Scheme] = {"paper": papers, "reference": _reference, "fast": _fast}
