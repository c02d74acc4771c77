"""What does a forward of one sample cost?"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dni import map_members, num_samples
from pipeline.messages import Payload

__all__ = ["forward_flops"]


def forward_flops(module: nn.Module, x: Payload) -> int:
    """FLOPs of a forward of one sample: matrix products and convolutions only. Nothing of the module changes.

    Args:
        module: run in evaluation mode, and put back into the mode it was in.
        x: its input, (N, *F).
    """
    training = {each: each.training for each in module.modules()}
    module.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(map_members(torch.clone, x))
    finally:
        for each, mode in training.items():
            each.training = mode
    return int(counter.get_total_flops()) // num_samples(x)
