"""Which source sends the error at the network's output back as it is? One that lets each unit answer for one output.

Letters: N samples, C outputs of the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.members import Members, carriers, like
from dni.sources.source import Need, Signal, error_of

__all__ = ["Kickback"]


class Kickback(nn.Module):
    """Give every unit of h the error at the network's output, over a fixed routing of ones.

    g_nf = e_n,c(f), with e = dL/dy per sample, (N, C). For a network with one output c(f) is that one, and g = e 1: all
    units of h are treated as if the output were their sum. So nothing of the stages above is used, not even random
    weights, and nothing is sent but the error.

    Source: Balduzzi et al. 2015 (arXiv 1411.6191), for regression with one output: there a unit's signal is the global
    error times its influence on the next layer alone, the sum of its weights to the units that are active there; as a
    rule for the gradient at a boundary, Czarnecki et al. 2017 (arXiv 1703.00522), section on other methods. Differs:
    the influence of a unit is that on its stage's output, so in a stage of two layers the first one's rule is the
    paper's, and the last layer's units have influence one. More than one output is ours: unit f (channel f of an
    image, feature f of a token) answers for output f modulo C, as a sum over outputs is zero for softmax and cross
    entropy. It follows the true gradient only as far as the weights above are positive from unit f to its output.

    Raises:
        ValueError: at each step, if the error is missing.
    """

    needs = Need.ERROR
    learns_from = Need.NONE

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        """Nothing to build."""

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        error = error_of(signal, self).flatten(1)
        return like(h, [_routed(error.to(member), member) for member in carriers(h)])

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0


def _routed(error: Tensor, h: Tensor) -> Tensor:
    """Each unit's error, shaped as `h`; the units of an image are its channels, else the features, the last axis."""
    axis = 1 if h.dim() == 4 else h.dim() - 1
    num_units = h.shape[axis]
    of_units = error.repeat(1, -(-num_units // error.shape[1]))[:, :num_units]  # a copy is faster than an index
    shape = [1] * h.dim()
    shape[0], shape[axis] = h.shape[0], num_units
    return of_units.reshape(shape).expand(h.shape).contiguous()
