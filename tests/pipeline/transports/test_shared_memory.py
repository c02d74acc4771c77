"""Does an edge in shared memory reuse its ring and leave nothing behind?"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from pipeline.errors import RunError
from pipeline.messages import Activation, Gradient, Stop
from tests.pipeline.pairs import make_pair, running_pair


def mapped_segments() -> int:
    """Segments of edges that this process has mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:dni edge")


def shared_files() -> set[str]:
    """Files in shared memory; locks (sem.*) are other processes' affair, which make and unlink them all the time."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_left_of_an_edge_once_both_ends_have_stopped() -> None:
    gc.collect()
    files, segments, descriptors = shared_files(), mapped_segments(), open_descriptors()
    pair = make_pair("shared")
    pair.start()
    for width in (10, 10_000, 1_000_000):
        pair.sender.send(Activation(step=0, h=torch.ones(2, width)))
    kept = pair.wait_received(3)
    assert mapped_segments() > segments
    pair.sender.send(Stop(step=0))
    pair.stop()
    assert (shared_files(), mapped_segments(), open_descriptors()) == (files, segments, descriptors)
    assert all(isinstance(message, Activation) for message in kept)


def test_ring_is_replaced_when_payloads_outgrow_it_and_only_then() -> None:
    before = mapped_segments()
    with running_pair("shared") as pair:
        for width in (3, 5, 900, 3, 1000):  # of float32 in 2 samples: what fits 4 KiB stays in the first ring
            pair.sender.send(Activation(step=0, h=torch.ones(2, width // 2)))
            pair.sender.send(Gradient(step=0, value=torch.ones(2, width // 2).double()))
        pair.wait_received(10)
        num_first = mapped_segments() - before
        pair.sender.send(Activation(step=0, h=torch.ones(2, 100_000)))
        pair.wait_received(1)
        assert mapped_segments() - before == num_first == 2, "one at each end; the old one is gone from both"


def test_frames_go_round_the_ring_many_times() -> None:
    with running_pair("shared", num_slots=3) as pair:
        for step in range(50):
            pair.sender.send(Activation(step=step, h=torch.full((2, 5), float(step))))
        for step, message in enumerate(pair.wait_received(50)):
            assert isinstance(message, Activation) and isinstance(message.h, torch.Tensor)
            assert message.step == step and message.h.eq(step).all()


def test_memory_that_cannot_be_had_is_an_error_of_ours_and_not_a_lost_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.memfd_create", refuse)
    with running_pair("shared") as pair:
        with pytest.raises(RunError, match=r"edge 1-2 needs .* MiB .*: Too many open files.*transport to gloo"):
            pair.sender.send(Activation(step=0, h=torch.ones(2, 3)))
        assert pair.sender_lost.empty()
