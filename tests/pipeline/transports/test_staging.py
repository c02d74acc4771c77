"""Do tensors get from and to the device of a stage whole, whatever lies in between?"""

from __future__ import annotations

import pytest
import torch

from pipeline.messages import Activation, Gradient
from pipeline.transports.staging import Landing, copy_members
from tests.pipeline.pairs import KINDS, running_pair

CPU = torch.device("cpu")


def test_members_are_copied_and_missing_ones_left_out() -> None:
    views = [torch.zeros(2, 3), None, torch.zeros(2, dtype=torch.long)]
    copy_members([torch.ones(2, 3), None, torch.tensor([4, 5])], views)
    assert views[0] is not None and views[0].eq(1).all() and views[2] is not None and views[2].tolist() == [4, 5]


def test_on_the_cpu_only_what_would_be_overwritten_is_copied() -> None:
    landing = Landing(CPU)
    room = landing.room(8)
    assert room.numel() == 8 and landing.room(8).data_ptr() != room.data_ptr()
    assert landing.take([room, None]) == [room, None]
    copied, missing = landing.copies([room, None])
    assert missing is None and copied is not None and copied.data_ptr() != room.data_ptr()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_messages_of_a_stage_on_a_gpu_arrive_on_the_others_gpu(kind: str) -> None:
    with running_pair(kind, num_slots=2, device="cuda") as pair:
        h = torch.zeros(64, 1000, device="cuda")
        for step in range(20):
            h = h + 1  # queued, and perhaps not done when it is sent
            pair.sender.send(Activation(step=step, h=h, target=torch.full((64,), step)))
            pair.sender.send(Gradient(step=step, value=(h.double(), None)))
            h.mul_(1)
        found = pair.wait_received(40)
    for step in range(20):
        sent_on, sent_back = found[2 * step], found[2 * step + 1]
        assert isinstance(sent_on, Activation) and isinstance(sent_on.h, torch.Tensor) and sent_on.h.is_cuda
        assert sent_on.h.eq(step + 1).all() and sent_on.target is not None and sent_on.target.eq(step).all()
        assert isinstance(sent_back, Gradient) and isinstance(sent_back.value, tuple)
        assert sent_back.value[0] is not None and sent_back.value[0].is_cuda and sent_back.value[0].eq(step + 1).all()
