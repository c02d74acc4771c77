"""How do tensors pass between threads whose work goes to CUDA streams of their own?

A tensor that a thread sends on is there only once its stream has got so far. So a message takes an event with it, the
receiver's stream waits for that event before the message is handled (no thread waits, and nothing that was begun
before it does), and the memory is not given to anybody else before the receiver has used it. Messages of the CPU pass
untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.messages import Activation, Gradient, Input, Message, OutputError

__all__ = ["arrive", "depart", "own_streams", "settle"]

_WITH_TENSORS = (Activation, Gradient, OutputError, Input)


@contextmanager
def own_streams(device: torch.device, others: Sequence[torch.device] = ()) -> Iterator[None]:
    """Inside the block, this thread's work goes to new streams: on `device`, which becomes current, and on `others`.

    A copy from another device takes place on this thread's stream there, too.
    """
    with ExitStack() as stack:
        for each in (*(other for other in others if other != device), device):
            if each.type == "cuda":
                stack.enter_context(torch.cuda.stream(torch.cuda.Stream(each)))  # type: ignore[no-untyped-call]
        yield


def depart(message: Message) -> Message:
    """The message as it is sent to another thread."""
    if isinstance(message, _WITH_TENSORS) and any(tensor.is_cuda for tensor in _tensors(message)):
        return replace(message, ready=torch.cuda.current_stream().record_event())
    return message


def arrive(message: Message) -> None:
    """Before the message is handled: let this thread's streams wait for it."""
    if isinstance(message, _WITH_TENSORS) and message.ready is not None:
        torch.cuda.current_stream().wait_event(message.ready)
        for tensor in _tensors(message):
            if tensor.is_cuda:
                stream = torch.cuda.current_stream(tensor.device)
                stream.wait_event(message.ready)
                tensor.record_stream(stream)


def settle(devices: Sequence[torch.device]) -> None:
    """Wait until nothing is under way on the devices."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def _tensors(message: Activation | Gradient | OutputError | Input) -> Iterator[Tensor]:
    match message:
        case Activation(h=payload, target=beside) | Input(x=payload, target=beside):
            pass
        case Gradient(value=payload):
            beside = None
        case OutputError(value=payload, loss_per_sample=beside):
            pass
    members = payload if isinstance(payload, tuple) else (payload,)
    return (tensor for tensor in (*members, beside) if tensor is not None)
