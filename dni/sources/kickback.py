"""Which source sends the error at the network's output back as it is? One that lets each unit answer for one output.

Letters: N samples, C outputs of the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni.members import Members, carriers, like
from dni.sources.remapping import check_units, unit_axis
from dni.sources.source import Need, Signal, error_of
from dni.structure.origin import NEW, Origin

__all__ = ["Kickback"]


@dataclass(frozen=True, slots=True)
class _Routing:
    """Which output each unit answers for, once units have changed."""

    places: tuple[int, ...]
    """f of each unit: its place when it came."""
    shares: tuple[float, ...]
    """What a copy's error is multiplied by; 1 for others."""

    def followed(self, origin: Origin) -> _Routing:
        """Of the units after a change. A new unit answers for the output that its own place says."""
        pairs = list(enumerate(origin.sources))
        return _Routing(
            places=tuple(place if source == NEW else self.places[source] for place, source in pairs),
            shares=tuple(
                1.0 if source == NEW else self.shares[source] * scale
                for (_, source), scale in zip(pairs, origin.scale, strict=True)
            ),
        )


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
    entropy. It follows the true gradient only as far as the weights above are positive from unit f to its output. That
    is what those weights come to be in training, so a unit goes on answering for its output when others are removed.

    Raises:
        ValueError: at each step, if the error is missing.
    """

    needs = Need.ERROR
    learns_from = Need.NONE

    def __init__(self) -> None:
        super().__init__()
        self._templates: list[Tensor] = []
        """A tensor of no samples for each floating-point member of h that it was built for."""
        self._routing: _Routing | None = None
        """None: that of the units as they were at build."""

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        """There is nothing to make: only the shapes are kept, to know what changes later."""
        self._templates = [member.new_empty((0, *member.shape[1:])) for member in carriers(h)]

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int = 1) -> None:
        """Units keep their outputs, copies share theirs."""
        if not self._templates:
            return
        check_units(self._templates, origin, axis)
        if origin.is_identity:
            return
        if self._routing is None:
            self._routing = _Routing(tuple(range(origin.num_old)), (1.0,) * origin.num_old)
        self._routing = self._routing.followed(origin)
        self._templates = [origin.raised(0).apply(self._templates[0], axis)]

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        error = error_of(signal, self).flatten(1)
        return like(h, [_routed(error.to(member), member, self._routing) for member in carriers(h)])

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0

    def get_extra_state(self) -> dict[str, Any]:
        routing = self._routing
        return {
            "members": self._templates,
            "routing": None if routing is None else {"places": routing.places, "shares": routing.shares},
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._templates, routing = state["members"], state["routing"]
        self._routing = None if routing is None else _Routing(tuple(routing["places"]), tuple(routing["shares"]))


def _routed(error: Tensor, h: Tensor, routing: _Routing | None) -> Tensor:
    """Each unit's error, shaped as `h`; the units of an image are its channels, else the features, the last axis."""
    axis = unit_axis(h)
    num_units = h.shape[axis]
    if routing is None:
        of_units = error.repeat(1, -(-num_units // error.shape[1]))[:, :num_units]  # a copy is faster than an index
    else:
        places = torch.tensor(routing.places, device=error.device) % error.shape[1]
        of_units = error[:, places] * torch.tensor(routing.shares, dtype=torch.float64).to(error)
    shape = [1] * h.dim()
    shape[0], shape[axis] = h.shape[0], num_units
    return of_units.reshape(shape).expand(h.shape).contiguous()
