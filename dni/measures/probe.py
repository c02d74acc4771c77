"""What would a source say to a probe batch, and how good is that?

A probe is a batch that nothing learns from: the truth comes down through all stages by backprop, and beside it the
gradients that the stages use, each from its own source.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dni.measures.quality import grade
from dni.members import Members, carriers
from dni.sources.shadow import Shadow
from dni.sources.source import GradientSource, Need, Signal

__all__ = ["ask", "grade_source", "pull_back"]

_NUM_PARTS = 8
"""Of the probe's samples, for the noise of the parameter gradient. (Ilyas et al. 2020 take 10 estimates.)"""


def ask(source: GradientSource, h: Members, signal: Signal) -> list[Tensor] | None:
    """What a built source gives for dL/dh, per floating-point member.

    Returns:
        None if it gives none, or needs what the signal does not hold.
    """
    held = {Need.TARGET: signal.target, Need.GRADIENT: signal.gradient, Need.ERROR: signal.error}
    if any(need not in held or held[need] is None for need in source.needs):
        return None
    estimate = source.estimate(h, signal)
    return None if estimate is None else carriers(estimate)


def grade_source(
    source: GradientSource,
    h: Members,
    signal: Signal,
    *,
    true: Sequence[Tensor],
    graph: Sequence[Tensor],
    parameters: Sequence[Tensor],
) -> tuple[list[Tensor] | None, dict[str, float]]:
    """The gradient that a stage uses for a probe, and its grade (`dni.measures.quality`). Nothing learns or changes.

    Of a `Shadow`, what acts is used, and what stands in the shadow is graded.

    Args:
        source: the stage's, built.
        h: the stage's output for the probe, without its graph.
        signal: what the source may know; its gradient is the one that comes down from the stage above, which has used
            its own source.
        true: dL/dh by backprop through all stages above, per floating-point member of h.
        graph: those members with their graph.
        parameters: the stage's parameters that learn.

    Returns:
        The used gradient (None: the stage has none to use), and the grades (none where there is nothing to grade).
    """
    used = ask(source, h, signal)
    graded = ask(source.source, h, signal) if isinstance(source, Shadow) else used
    if graded is None:
        return used, {}
    grades = grade(
        graph,
        parameters,
        used=graded,
        true=true,
        target=None if signal.gradient is None else carriers(signal.gradient),
        num_parts=min(_NUM_PARTS, len(true[0])),
    )
    return used, grades


def pull_back(graph: Sequence[Tensor], x: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Tensor]:
    """dL/dx from dL/dh: (∂h/∂x)ᵀ g. The graph is kept, and no `.grad` is touched.

    Args:
        graph: the floating-point members of h, with their graph.
        x: those of the stage's input, which require gradients.
        gradient: g, shaped as h.

    Returns:
        Shaped as x; zero for a member that h does not depend on.
    """
    pairs = [(h, g) for h, g in zip(graph, gradient, strict=True) if h.requires_grad]
    if not pairs:
        return [torch.zeros_like(member) for member in x]
    outputs, gradients = zip(*pairs, strict=True)
    return list(torch.autograd.grad(outputs, x, gradients, retain_graph=True, materialize_grads=True))
