"""Which network predicts the next word, and which predicts the gradient of what it remembers?

Letters: N samples, E numbers for a word, S numbers of a sample's state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dni import Members

__all__ = ["ElementWise", "LanguageModel"]


class LanguageModel(nn.Module):
    """Words through an embedding, an LSTM and a linear layer to an adaptive softmax over all words.

    Called with words that `embed` has read already: an embedding's gradient is as large as itself, and so it is made
    once for all windows of a span. Source of the softmax: Grave et al. 2017 (arXiv 1609.04309).
    """

    def __init__(self, num_types: int, *, embedding: int, hidden: int, num_layers: int, cutoffs: Sequence[int]) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_types, embedding)
        self.lstm = nn.LSTM(embedding, hidden, num_layers)
        self.down = nn.Linear(hidden, embedding)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(embedding, num_types, cutoffs)

    def forward(self, x: Tensor, state: Members | None = None) -> tuple[Tensor, Members]:
        """Words read, (steps, N, E), and a state to what `error` takes, (steps, N, E), and the state after the last."""
        y, end = self.lstm(x, state)
        return self.down(y), end

    def error(self, y: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of the words that come next, (steps, N), summed, in nats: a scalar."""
        return -torch.sum(self.softmax(y.flatten(0, 1), targets.flatten()).output)


class ElementWise(nn.Module):
    """One small network, the same for every number of the state: its gradient from its value alone.

    Source: Shang & Zhang 2019 (arXiv 1902.10630) and its code. Differs: a layer of ReLU instead of a QRNN that
    remembers the windows before, and the state is not multiplied by noise.
    """

    def __init__(self, *, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.map = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(), last)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, S) to (N, S)."""
        return torch.squeeze(self.map(rows[:, :, None]), dim=2)
