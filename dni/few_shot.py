"""How does a classifier adapt to a new task from unlabelled queries, driven by synthetic gradients?

Its weights begin as the class means of a few labelled samples, and take K gradient steps on queries whose labels
nobody has: a small network says what the gradient at their logits is. This is no `GradientSource`. Nothing shows the
network a true gradient; everything is learned, through all K steps, from the loss that the queries of training tasks
have *after* them.
Source: Hu et al. 2020 (arXiv 2004.12696), synthetic information bottleneck (SIB), as its authors' code has it.

Letters: T tasks, C classes of a task, S support samples of a task (labelled), Q queries, N either, F features,
K steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FewShotClassifier", "LogitSynthesizer"]


class LogitSynthesizer(nn.Module):
    """ξ: from the logits of a task's queries to the gradient of their loss at them, (T, Q, C) to (T, Q, C).

    Two hidden layers of Linear, ReLU, normalisation over the Q queries of a task, then a Linear. Only through the
    normalisation does a query's gradient depend on the other queries. ξ sees neither labels nor features.
    Source: Hu et al. 2020, authors' code, whose BatchNorm takes the statistics of the batch in tests too. Differs: the
    statistics are of one task, also where several tasks make a batch; and the last layer starts at zero, as in
    `dni.sources.synthesizers`, so that a new ξ leaves the classifier as it is.

    Args:
        num_classes: C.
        hidden: width of the hidden layers; 0: 8 C, the paper's.
    """

    def __init__(self, num_classes: int, *, hidden: int = 0) -> None:
        super().__init__()
        width = hidden or 8 * num_classes
        self.hidden = nn.ModuleList([nn.Linear(num_classes, width), nn.Linear(width, width)])
        self.norms = nn.ModuleList([nn.InstanceNorm1d(width, affine=True) for _ in self.hidden])
        self.last = nn.Linear(width, num_classes)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, logits: Tensor) -> Tensor:
        """The synthetic dL/dz at `logits` z, (T, Q, C), of the loss summed over the Q queries.

        Raises:
            ValueError: Q = 1, of which there are no statistics.
        """
        if logits.shape[1] < 2:
            raise ValueError(
                f"a LogitSynthesizer normalises over the queries of a task and needs at least 2, got logits of shape "
                f"{tuple(logits.shape)}. Classify several queries together, or use num_steps=0."
            )
        x = logits
        for linear, norm in zip(self.hidden, self.norms, strict=True):
            # InstanceNorm1d wants (T, channels, Q).
            x = norm(linear(x).relu().transpose(1, 2)).transpose(1, 2)
        return self.last(x)  # type: ignore[no-any-return]


class FewShotClassifier(nn.Module):
    """A cosine classifier whose weights adapt to the queries of a task by K synthetic-gradient steps.

        θ⁰_c  = w * mean over the support of class c of f/|f|
        z(θ)  = s (f/|f| · θ_c/|θ_c| + b)
        θᵏ⁺¹  = θᵏ − η Σ_q (∂z_q/∂θᵏ)ᵀ ξ(z(θᵏ))_q,     k = 0 .. K-1

    w (F,) starts at 1, s at 10, b at 0; all three, and ξ, are learned by whoever takes gradients of a loss at the
    returned logits. Source: Hu et al. 2020 (arXiv 2004.12696), Figure 1 and the authors' code. Differs: see
    `LogitSynthesizer`; the vector-Jacobian product is written out instead of taken by autograd, so that the K steps
    also run under `torch.no_grad` and cost no second-order graph.

    Args:
        num_features: F.
        num_classes: C, 2 or more.
        num_steps: K; 0: the class means classify, and `synthesizer` and `rate` are not used.
        rate: η. ξ's gradient is of the loss summed over queries; the paper's η is 1e-3 for 75 of them.
        synthesizer: ξ, a module (T, Q, C) -> (T, Q, C); None: a `LogitSynthesizer`.

    Raises:
        ValueError: fewer than two classes or a negative number of steps.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        num_steps: int = 3,
        rate: float = 1e-3,
        synthesizer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2 or num_steps < 0:
            raise ValueError(
                "a few-shot classifier needs num_classes of at least 2 and num_steps of at least 0, "
                f"got {num_classes} and {num_steps}."
            )
        self.num_classes = num_classes
        self.num_steps = num_steps
        self.rate = rate
        self.feature_scale = nn.Parameter(torch.ones(num_features))
        self.logit_scale = nn.Parameter(torch.tensor(10.0))
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.synthesizer = LogitSynthesizer(num_classes) if synthesizer is None else synthesizer

    def forward(self, support: Tensor, target: Tensor, query: Tensor) -> Tensor:
        """The logits of the queries after the K steps, (T, Q, C).

        Args:
            support: features of the labelled samples, (T, S, F).
            target: their classes, (T, S), int64 in [0, C); every class at least once in every task.
            query: features of the unlabelled samples, (T, Q, F).

        Raises:
            ValueError: a class lies outside [0, C), or a task has no sample of one.
        """
        weights = self.adapt(self.initial_weights(support, target), query)
        return self.logits(weights, query)

    def initial_weights(self, support: Tensor, target: Tensor) -> Tensor:
        """θ⁰, (T, C, F): the means of the normalised features of each class, each feature scaled; as for `forward`."""
        if bool(((target < 0) | (target >= self.num_classes)).any()):
            raise ValueError(
                f"targets of the support must lie in [0, {self.num_classes}), got {int(target.min())} to "
                f"{int(target.max())}. Number the classes of each task from 0."
            )
        members = F.one_hot(target, self.num_classes).to(support.dtype)
        counts = members.sum(1)
        if bool((counts == 0).any()):
            task, absent = (int(index) for index in (counts == 0).nonzero()[0])
            raise ValueError(
                f"the support must hold every one of the {self.num_classes} classes, found none of class {absent} in "
                f"task {task}. Classes without a labelled sample have no mean: pass weights of your own to `adapt`."
            )
        means = torch.einsum("tsc,tsf->tcf", members, F.normalize(support, dim=2)) / counts[:, :, None]
        return means * self.feature_scale

    def logits(self, weights: Tensor, features: Tensor) -> Tensor:
        """z, (T, N, C), for weights (T, C, F) and features (T, N, F)."""
        cosine = torch.einsum("tnf,tcf->tnc", F.normalize(features, dim=2), F.normalize(weights, dim=2))
        return self.logit_scale * (cosine + self.offset)

    def pull_back(self, error: Tensor, weights: Tensor, features: Tensor) -> Tensor:
        """dL/dθ from dL/dz: the vector-Jacobian product of `logits` with respect to the weights.

        With u_c = θ_c/|θ_c| and a_c = s Σ_n e_nc f_n/|f_n|, dL/dθ_c = (a_c − u_c (u_c · a_c)) / |θ_c|.

        Args:
            error: e = dL/dz, (T, N, C), of a loss summed over N.
            weights: θ, (T, C, F).
            features: (T, N, F).

        Returns:
            (T, C, F).
        """
        along = self.logit_scale * torch.einsum("tnc,tnf->tcf", error, F.normalize(features, dim=2))
        length = weights.norm(dim=2, keepdim=True).clamp_min(1e-12)  # as F.normalize has it
        unit = weights / length
        pulled: Tensor = (along - unit * (unit * along).sum(2, keepdim=True)) / length
        return pulled

    def adapt(self, weights: Tensor, query: Tensor) -> Tensor:
        """θᴷ, (T, C, F), from any θ⁰ `weights` (T, C, F): of a support, or learned where there is none (zero-shot).

        Args:
            weights: θ⁰, (T, C, F).
            query: features of the unlabelled samples, (T, Q, F).
        """
        for _ in range(self.num_steps):
            error = self.synthesizer(self.logits(weights, query))
            weights = weights - self.rate * self.pull_back(error, weights, query)
        return weights
