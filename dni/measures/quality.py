"""How close is an estimated gradient to the true one?

Measures of a used gradient ĝ against a reference g, which is the truth or what the source was shown:

    cosine              ⟨ĝ, g⟩ / (|ĝ| |g|)
    norm ratio          |ĝ| / |g|
    projection          ⟨ĝ, g⟩ / |g|², the share of g in ĝ; a step along ĝ descends while it is positive
    relative error      |ĝ - g| / |g|

and the split of an error into what stays in the mean over samples (bias) and what averages out (noise).
Source: the measures of Ilyas et al. 2020 (arXiv 1811.02553), section 2 and appendix. Differs: they grade a policy
gradient against one of ten million samples; here the truth is backprop on the same samples.

Letters: N samples, *F the shape of one sample's output, P parts of the samples, D parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "agreement",
    "compare_gradients",
    "compare_parameter_gradients",
    "grade",
    "mean_pairwise_cosine",
    "parameter_gradients_by_part",
    "split_direction",
    "split_error",
]


def agreement(used: Sequence[Tensor], true: Sequence[Tensor]) -> dict[str, float]:
    """Cosine, norm ratio, projection and relative error of two gradients, all their tensors as one vector each.

    Args:
        used: ĝ.
        true: g, shaped alike.

    Returns:
        cosine, norm_ratio, projection, relative_error; all 0 where |g| = 0, and the cosine also where |ĝ| = 0.
    """
    u, t = _flat(used), _flat(true)
    dot, uu, tt, ee = torch.stack([torch.dot(u, t), u.norm(), t.norm(), (u - t).norm()]).double().tolist()
    if tt == 0.0:
        return dict.fromkeys(("cosine", "norm_ratio", "projection", "relative_error"), 0.0)
    return {
        "cosine": dot / (uu * tt) if uu else 0.0,
        "norm_ratio": uu / tt,
        "projection": dot / tt**2,
        "relative_error": ee / tt,
    }


def compare_gradients(used: Sequence[Tensor], true: Sequence[Tensor]) -> dict[str, float]:
    """The `agreement` of two gradients at a stage's output, all members and samples as one vector.

    Args:
        used: the estimate's floating-point members, each (N, *F).
        true: the true gradient's, shaped alike.

    Returns:
        gradient_cosine, gradient_norm_ratio, gradient_projection, gradient_relative_error.
    """
    return _named("gradient", agreement(used, true))


def compare_parameter_gradients(
    h: Sequence[Tensor], parameters: Sequence[Tensor], *, used: Sequence[Tensor], true: Sequence[Tensor]
) -> dict[str, float]:
    """The `agreement` of what the two gradients at h make of the parameters' gradients.

    The measure that matters: an estimate can be far from the truth sample by sample and still give the
    parameters the right gradient. The graph of h is kept and no `.grad` is touched.

    Args:
        h: the stage's floating-point outputs, with their graph.
        parameters: the stage's parameters.
        used: the estimate at h.
        true: the true gradient at h.

    Returns:
        parameter_cosine, parameter_norm_ratio, parameter_projection, parameter_relative_error; empty for a stage
        without parameters.
    """
    pulled = [_pulled_back(h, parameters, gradient) for gradient in (used, true)]
    pairs = [(u, t) for u, t in zip(*pulled, strict=True) if u is not None and t is not None]
    if not pairs:
        return {}
    return _named("parameter", agreement([u for u, _ in pairs], [t for _, t in pairs]))


def parameter_gradients_by_part(
    h: Sequence[Tensor], parameters: Sequence[Tensor], gradient: Sequence[Tensor], *, num_parts: int
) -> Tensor:
    """What each part of the samples contributes to the parameters' gradient, per sample.

    The samples are cut into P consecutive parts of nearly equal size. Row p is Σ over n in part p of
    (∂h_n/∂θ)ᵀ g_n, divided by the samples of part p. All parts share one forward: where samples meet (BatchNorm),
    the rows are contributions to one gradient, not gradients of smaller batches. The graph of h is kept.

    Args:
        h: the stage's floating-point outputs (N, *F), with their graph.
        parameters: the stage's parameters, D numbers in all.
        gradient: dL/dh of the loss summed over the samples, shaped as h.
        num_parts: P; at most N.

    Returns:
        (P, D); zero where h does not depend on a parameter.

    Raises:
        ValueError: there are fewer samples than parts.
    """
    num_samples = len(gradient[0])
    if not 1 <= num_parts <= num_samples:
        raise ValueError(
            f"the samples must be cut into 1 to {num_samples} parts (the samples there are), got {num_parts}. "
            "Give more samples or fewer parts."
        )
    rows = []
    for part in torch.arange(num_samples).tensor_split(num_parts):
        first, last = int(part[0]), int(part[-1]) + 1
        masked = [torch.zeros_like(member) for member in gradient]
        for member, whole in zip(masked, gradient, strict=True):
            member[first:last] = whole[first:last]
        pulled = _pulled_back(h, parameters, masked)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, pulled, strict=True)]
        rows.append(_flat(filled) / (last - first))
    return torch.stack(rows)


def split_error(used: Tensor, true: Tensor) -> dict[str, float]:
    """How much of an estimate's squared error is the same for all rows, and how much averages out.

    With e = ĝ - g and ē its mean over rows, (1/N) Σ|e_n|² = |ē|² + (1/N) Σ|e_n - ē|²; both terms relative to
    (1/N) Σ|g_n|². Their sum is the squared relative error of all rows as one vector.

    Args:
        used: ĝ, (N, *F): a row per sample or per part.
        true: g, shaped alike.

    Returns:
        error_bias, error_noise; 0 where g is 0.
    """
    error = (used - true).reshape(len(used), -1)
    mean = error.mean(0)
    terms = torch.stack([mean.square().sum(), (error - mean).square().sum(1).mean()])
    bias, noise, scale = (*terms.double().tolist(), true.reshape(len(true), -1).square().sum(1).mean().item())
    return {"error_bias": bias / scale if scale else 0.0, "error_noise": noise / scale if scale else 0.0}


def split_direction(used: Tensor, true: Tensor) -> dict[str, float]:
    """How far the estimate's direction is wrong on average, and how far it scatters about its own average.

    bias = 1 - cos(mean of ĝ_p, mean of g_p); noise = 1 - the mean cosine of two different ĝ_p; and the same noise of
    the truth, which is what the samples alone bring.

    Args:
        used: ĝ, (P, D): the gradient of each part, per sample.
        true: g, shaped alike.

    Returns:
        direction_bias, direction_noise, true_direction_noise; 0 is best, and 1 is a right angle.

    Raises:
        ValueError: there are fewer than two parts.
    """
    return {
        "direction_bias": 1.0 - agreement([used.mean(0)], [true.mean(0)])["cosine"],
        "direction_noise": 1.0 - mean_pairwise_cosine(used),
        "true_direction_noise": 1.0 - mean_pairwise_cosine(true),
    }


def mean_pairwise_cosine(rows: Tensor) -> float:
    """The mean over all pairs of different rows of their cosine; a row of zeros has cosine 0 with any other.

    Args:
        rows: (P, D), a gradient estimate per row.

    Raises:
        ValueError: there are fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError(
            f"a pairwise cosine needs at least two rows, got {len(rows)}. Cut the samples into more parts."
        )
    units = F.normalize(rows.double(), dim=1, eps=torch.finfo(torch.float64).tiny)
    # The square of the sum holds every pair twice, and each row with itself.
    pairs = units.sum(0).square().sum() - units.square().sum()
    return float(pairs) / (len(rows) * (len(rows) - 1))


def grade(
    graph: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    used: Sequence[Tensor],
    true: Sequence[Tensor],
    target: Sequence[Tensor] | None,
    num_parts: int,
) -> dict[str, float]:
    """All measures of one stage's used gradient, on its output and on its parameters.

    Args:
        graph: the stage's floating-point outputs, each (N, *F), with their graph, which is kept.
        parameters: the stage's parameters that learn.
        used: the gradient that the stage's source gives at its output.
        true: dL/dh by backprop through all stages above.
        target: what the source learns from: the used gradient of the stage above, pulled back through that stage (the
            bootstrapped target of Jaderberg et al. 2017); None where nothing comes down.
        num_parts: P, of the split of the parameter gradient; at most N.

    Returns:
        On the output the `agreement` with the truth, the `split_error` over samples, and target_cosine,
        target_relative_error against the target. On the parameters, with parameter_ before the name, the `agreement`
        and the `split_direction` over parts; none of these for a stage without parameters.
    """
    values = agreement(used, true)
    values |= split_error(_by_sample(used), _by_sample(true))
    if target is not None:
        against = agreement(used, target)
        values |= {f"target_{name}": against[name] for name in ("cosine", "relative_error")}
    if not parameters or not any(member.requires_grad for member in graph):
        return values
    ours, theirs = (
        parameter_gradients_by_part(graph, parameters, gradient, num_parts=num_parts) for gradient in (used, true)
    )
    sizes = [len(part) for part in torch.arange(len(true[0])).tensor_split(num_parts)]
    weights = torch.tensor(sizes, dtype=ours.dtype, device=ours.device)
    values |= _named("parameter", agreement([weights @ ours], [weights @ theirs]))
    if num_parts > 1:
        values |= _named("parameter", split_direction(ours, theirs))
    return values


def _pulled_back(
    h: Sequence[Tensor], parameters: Sequence[Tensor], gradient: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    learned = [member.requires_grad for member in h]  # a member may depend on no parameter
    if not parameters or not any(learned):
        return (None,) * len(parameters)
    return torch.autograd.grad(
        list(compress(h, learned)),
        list(parameters),
        grad_outputs=list(compress(gradient, learned)),
        retain_graph=True,
        allow_unused=True,
    )


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _by_sample(members: Sequence[Tensor]) -> Tensor:
    """(N, all features of all members)."""
    return torch.cat([member.detach().reshape(len(member), -1) for member in members], dim=1)


def _named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in values.items()}
