"""Do messages between streams take what they need with them, and messages on the CPU nothing?"""

from __future__ import annotations

import pytest
import torch

from pipeline.executors.streams import arrive, depart, own_streams, settle
from pipeline.messages import Activation, Drain, Gradient, Message, OutputError, Stop
from tests.pipeline.chain import activation, gradient

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "message",
    [
        activation(0),
        gradient(0),
        gradient(0, None),
        OutputError(step=1, value=torch.ones(2, 3), loss_per_sample=torch.ones(2)),
        OutputError(step=2),
        Drain(step=3),
        Stop(step=4),
    ],
)
def test_message_on_the_cpu_passes_as_it_is(message: Message) -> None:
    with own_streams(CPU, [CPU, CPU]):
        assert depart(message) is message
        arrive(message)
    settle([CPU])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensor_is_read_only_once_the_senders_stream_has_got_so_far() -> None:
    device = torch.device("cuda", 0)
    with own_streams(device):
        torch.cuda._sleep(50_000_000)  # the value is written long after the message has left
        sent = depart(Activation(step=0, h=torch.full((1 << 20,), 3.0, device=device)))
    assert isinstance(sent, Activation) and sent.ready is not None
    with own_streams(device):
        arrive(sent)
        assert isinstance(sent.h, torch.Tensor) and float((sent.h * 2).sum()) == 6.0 * (1 << 20)
    assert depart(Gradient(step=0, value=None)).ready is None
    settle([device])
