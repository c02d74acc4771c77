"""Is the kind of every edge the right one for where its ranks are, and is an impossible one refused in time?"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch

from pipeline.configuration.config import Config
from pipeline.configuration.run import prepare
from pipeline.errors import ConfigurationError
from pipeline.executors.agreement import prepare_together
from pipeline.transports.control import Control, World
from pipeline.transports.placement import Place, choose, device_of, place, planned
from tests.reference import Problem
from tests.spawn import Ranks

HERE = Place(host="a", memory="boot/net/0", gpu="", nccl=False)
ELSEWHERE = dataclasses.replace(HERE, host="b", memory="other/net/0")
NO_SHARING = dataclasses.replace(HERE, memory="")
GPU_0, GPU_1 = (dataclasses.replace(HERE, gpu=f"gpu {i}", nccl=True) for i in range(2))
GPU_2 = dataclasses.replace(ELSEWHERE, gpu="gpu 2", nccl=True)
PROBLEM = Problem(num_stages=3)


def config(**settings: Any) -> Config:
    return PROBLEM.config(executor="distributed", **settings)


def kind_between(a: Place, b: Place, transport: str = "auto") -> tuple[str, str]:
    (choice,) = choose(config(transport=(transport,)), [0, 1], [a, b])
    return choice.kind, choice.why


@pytest.mark.parametrize(
    ("a", "b", "kind", "why"),
    [
        (HERE, HERE, "shared", "one host"),
        (HERE, ELSEWHERE, "gloo", "hosts, containers or users differ"),
        (HERE, NO_SHARING, "gloo", "memory is shared on Linux only"),
        (GPU_0, GPU_1, "shared", "one host"),
        (GPU_0, GPU_2, "nccl", "a GPU each, on two hosts"),
        (HERE, GPU_2, "gloo", "hosts, containers or users differ"),
        (GPU_0, dataclasses.replace(GPU_2, nccl=False), "gloo", "hosts, containers or users differ"),
    ],
)
def test_auto_takes_the_fastest_transport_that_works(a: Place, b: Place, kind: str, why: str) -> None:
    assert kind_between(a, b) == kind_between(b, a) == (kind, why)


@pytest.mark.parametrize(
    ("a", "b", "transport"),
    [(HERE, HERE, "shared"), (HERE, HERE, "gloo"), (GPU_0, GPU_2, "gloo"), (GPU_0, GPU_1, "nccl")],
)
def test_transport_that_works_is_taken_when_it_is_asked_for(a: Place, b: Place, transport: str) -> None:
    assert kind_between(a, b, transport) == (transport, "as set")


@pytest.mark.parametrize(
    ("a", "b", "transport", "message"),
    [
        (HERE, ELSEWHERE, "shared", "between rank 0 on a and rank 1 on b: hosts, containers or users differ"),
        (HERE, NO_SHARING, "shared", "memory is shared on Linux only"),
        (HERE, GPU_0, "nccl", "NCCL needs stages on GPUs"),
        (GPU_0, GPU_0, "nccl", "NCCL refuses two ranks on one GPU"),
        (dataclasses.replace(GPU_0, nccl=False), GPU_1, "nccl", "built without NCCL"),
    ],
)
def test_transport_that_cannot_work_is_refused_with_the_reason(
    a: Place, b: Place, transport: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"transport {transport} cannot work at boundary 0-1, .*{message}"):
        kind_between(a, b, transport)


def test_each_boundary_may_have_a_transport_and_stages_of_one_rank_need_none() -> None:
    choices = choose(config(transport=("nccl", "gloo", "auto")), [0, 0, 1, 2], [HERE, HERE, HERE])
    assert [choice.kind for choice in choices] == ["in process", "gloo", "shared"]
    with pytest.raises(ConfigurationError, match=r"transport takes 1 value or 3 \(one each\), got 2"):
        choose(config(transport=("gloo", "auto")), [0, 0, 1, 2], [HERE, HERE, HERE])


def test_neighbouring_stages_share_ranks_as_evenly_as_can_be() -> None:
    assert place(5, 2) == [0, 0, 0, 1, 1] and place(4, 4) == [0, 1, 2, 3] and place(3, 1) == [0, 0, 0]


def test_place_of_this_process_can_share_memory_with_itself() -> None:
    here = Place.here(torch.device("cpu"))
    assert here == Place.here(torch.device("cpu")) and here.host and not here.gpu
    assert Place(**dataclasses.asdict(here)) == here
    assert device_of("cpu", local_rank=3) == torch.device("cpu")
    assert [choice.kind for choice in planned(config(), [0, 0, 1])] == ["in process", "shared"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what only a GPU could do")
def test_impossible_transport_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigurationError, match=r"transport nccl cannot work at boundary 0-1.*NCCL needs stages"):
        prepare(config(transport=("nccl",)))
    with pytest.raises(ConfigurationError, match="transport takes 1 value or 2"):
        prepare(config(transport=("auto",) * 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"executor": "simulate", "transport": ("gloo",)},
            "transport gloo has no effect: the executor simulate has one",
        ),
        ({"num_ranks": 1, "transport": ("gloo",)}, "no effect at boundary 0-1, 1-2, whose stages share a rank"),
        ({"num_ranks": 2, "transport": ("gloo", "gloo")}, "no effect at boundary 0-1, whose stages share a rank"),
    ],
)
def test_transport_without_an_effect_warns(settings: dict[str, Any], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        prepare(PROBLEM.config(**{"executor": "distributed", **settings}))


def test_transport_with_an_effect_somewhere_does_not_warn() -> None:
    with warnings.catch_warnings(record=True) as caught:
        prepare(config(num_ranks=2, transport=("gloo",)))
        prepare(config(num_ranks=2, transport=("auto", "shared")))
    assert not caught


def prepare_nccl(world: World) -> str:
    """What a rank is told that should have used NCCL on a CPU."""
    try:
        prepare_together(config(transport=("nccl",), device="cpu"), Control(world))
    except ConfigurationError as error:
        return str(error)
    raise AssertionError("it cannot work")


@pytest.mark.distributed
def test_every_rank_refuses_what_is_only_known_once_all_are_there(ranks: Ranks) -> None:
    first, second = ranks.run(prepare_nccl, world_size=2)
    assert first == second and "transport nccl cannot work at boundary 1-2, between rank 0 on" in first
