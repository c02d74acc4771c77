"""How far does an update move a weight, for the size that the weight has?

For a layer before a normalisation, W and cW are the same function; what counts is how far a step turns W. These are our
measures of that, of one update W → W', with g the averaged gradient of the loss:

    relative update         ‖W' - W‖ / ‖W‖          the effective step; ∝ 1/c² for a plain gradient step
    angular update          the angle between W and W', in radians
    gradient by norm        ‖g‖ ‖W‖                 the same for W and cW
    weight norm             ‖W‖                     what weight decay acts on

Source: ours. Bjorck et al. 2021 (arXiv 2012.13841) have a scale-invariant measure for the effect of early weight decay,
whose definition we have not found; none of these is meant to be it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["measure_update"]


def measure_update(before: Tensor, after: Tensor, gradient: Tensor | None = None) -> dict[str, float]:
    """The measures of one update of one weight, computed in 64 bits.

    Args:
        before: W, any shape.
        after: W', shaped alike.
        gradient: g, shaped alike; None: it is not known, and its measure is left out.

    Returns:
        weight_norm, relative_update, angular_update and gradient_by_norm; the middle two are 0 where W or W' is 0.
    """
    w, new = before.detach().double(), after.detach().double()
    norm, new_norm, change = (torch.linalg.vector_norm(value) for value in (w, new, new - w))
    # The angle as in Kahan's formula: arccos of a cosine close to 1 has lost half of the digits.
    u, v = w * new_norm, new * norm
    angle = 2 * torch.atan2(torch.linalg.vector_norm(v - u), torch.linalg.vector_norm(v + u))
    slope = torch.zeros_like(norm) if gradient is None else torch.linalg.vector_norm(gradient.detach().double())
    found = torch.stack([norm, change, angle, slope * norm]).tolist()
    measures = {
        "weight_norm": found[0],
        "relative_update": found[1] / found[0] if found[0] else 0.0,
        "angular_update": found[2],
    }
    return measures if gradient is None else measures | {"gradient_by_norm": found[3]}
