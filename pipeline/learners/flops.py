"""What does a forward of one sample cost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dni import map_members, num_samples
from pipeline.messages import Payload

__all__ = ["forward_flops"]


class _Counter(TorchDispatchMode):
    """Adds up the FLOPs of this thread's operations. (PyTorch's own counter hooks the modules of every thread.)"""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        formula = flop_registry.get(operation._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def forward_flops(module: nn.Module, x: Payload) -> int:
    """FLOPs of a forward of one sample: matrix products, convolutions, and of fused attention what PyTorch knows.

    Nothing of the module changes.

    Args:
        module: run in evaluation mode, and put back into the mode it was in.
        x: its input, (N, *F).
    """
    training = {each: each.training for each in module.modules()}
    module.eval()
    try:
        # With gradients, because without them attention in evaluation is one fused operation that nobody counts.
        with _Counter() as counter, torch.enable_grad():
            module(map_members(torch.clone, x))
    finally:
        for each, mode in training.items():
            each.training = mode
    total: int = counter.total
    return total // num_samples(x)
