"""When does a message arrive, in virtual time?"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pipeline.messages import Activation, Gradient, Input, Message, OutputError
from pipeline.virtual_time.costs import CostModel, jitters

__all__ = ["Links"]


class Links:
    """The ways between neighbours, one up and one down each; from the last stage to each that it tells of errors; and
    from the first stage to each that it sends the network's input.

    A message takes the latency; then its bytes come in, after those of the message before it. So messages stay in
    order, and a link gives no more than its bandwidth.

    Args:
        costs: latency, bandwidth, bytes and jitter.
        num_stages: stages of the chain.
    """

    def __init__(self, costs: CostModel, *, num_stages: int) -> None:
        self._costs = costs
        self._transfer_s: list[float] = costs.transfer_s(num_stages).tolist()
        self._error_s = costs.error_bytes / costs.bytes_per_s
        self._input_s = costs.input_bytes / costs.bytes_per_s
        self._free_at_s = {name: [0.0] * num_stages for name in ("up", "down", "error", "input")}
        self._draws: dict[tuple[str, int], Iterator[float]] = {}

    def arrival_s(self, message: Message, *, sender: int, to: int, now_s: float) -> float:
        """When a message that is sent now arrives; at once if it is for the sender itself."""
        if to == sender:
            return now_s
        name, boundary = ("up", sender) if to > sender else ("down", to)
        if isinstance(message, OutputError):
            name = "error"
        elif isinstance(message, Input):
            name, boundary = "input", to
        free_at_s = self._free_at_s[name]
        arrival_s = max(now_s + self._latency_s(name, boundary), free_at_s[boundary])
        match message:
            case Activation() | Gradient(value=tuple() | Tensor()):
                arrival_s += self._transfer_s[boundary]
            case OutputError(value=Tensor()):
                arrival_s += self._error_s
            case Input(x=tuple() | Tensor()):
                arrival_s += self._input_s
        free_at_s[boundary] = arrival_s
        return arrival_s

    def _latency_s(self, name: str, boundary: int) -> float:
        costs = self._costs
        if not costs.message_jitter:
            return costs.message_s
        draws = self._draws.get((name, boundary))
        if draws is None:
            draws = jitters(costs.message_jitter, seed=costs.seed, name=name, index=boundary)
            self._draws[name, boundary] = draws
        return costs.message_s * next(draws)
