"""Is every bit of two states compared, and what differs said so that it can be found?"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch

from pipeline.configuration.conditions import Conditions
from pipeline.replay.comparison import Difference, compare_states

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_tensors_of_any_type_are_equal_and_one_element_that_differs_is_found(dtype: torch.dtype) -> None:
    one = torch.ones(3, 4, dtype=dtype)
    other = one.clone()
    assert compare_states({"w": one}, {"w": other}) == (1, [])
    other[1, 2] = 0
    num_tensors, (found,) = compare_states({"a": [2, {"w": one}]}, {"a": [2, {"w": other}]})
    assert (num_tensors, found.name) == (1, "a/1/w")
    assert found.how.startswith("differs in 1 of 12 elements")
    if one.is_floating_point() or one.is_complex():
        assert found.how.endswith(", by up to 1")


def test_bits_count_not_values() -> None:
    assert compare_states(torch.tensor(math.nan), torch.tensor(math.nan)) == (1, [])
    _, (found,) = compare_states({"zero": torch.tensor(0.0)}, {"zero": torch.tensor(-0.0)})
    assert found == Difference(name="zero", how="differs in 1 of 1 elements, by up to 0")
    turned = torch.randn(3, 4).t()
    assert compare_states(turned, turned.contiguous()) == (1, [])


@pytest.mark.parametrize(
    ("own", "saved", "expected"),
    [
        ({"a": 1}, {"a": 2}, [("a", "is 1, saved is 2")]),
        ({"a": 1}, {"a": 1.0}, [("a", "is 1, saved is 1.0")]),
        ({"a": math.nan}, {"a": math.nan}, []),
        ({"a": None}, OrderedDict(a=None), []),
        ({"a": None}, {"a": {}}, [("a", "is None, saved is {}")]),
        ({"a": 1, "b": 2}, {"b": 2, "c": 3}, [("a", "is 1, saved is missing"), ("c", "is missing, saved is 3")]),
        ([1, 2], [1], [("1", "is 2, saved is missing")]),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, [("a", "is (2,) float32, saved is (3,) float32")]),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2).long()}, [("a", "is (2,) float32, saved is (2,) int64")]),
        ({"a": torch.zeros(2)}, {"a": None}, [("a", "is (2,) float32, saved is None")]),
    ],
)
def test_what_differs_is_said_in_words(own: Any, saved: Any, expected: list[tuple[str, str]]) -> None:
    assert [(found.name, found.how) for found in compare_states(own, saved)[1]] == expected


def test_conditions_of_another_machine_are_all_named() -> None:
    here = Conditions(
        torch_version="2.13.0", device="cpu", processor="a CPU", instructions="AVX2", num_threads=1, config=None
    )
    assert here.differences(here) == []
    there = Conditions(
        torch_version="2.11.0", device="cuda", processor="", instructions="AVX512", num_threads=2, config="0abc"
    )
    assert there.differences(here) == [
        "the version of torch was 2.11.0, here it is 2.13.0",
        "the device was cuda, here it is cpu",
        "the processor was not recorded, here it is a CPU",
        "the set of vector instructions was AVX512, here it is AVX2",
        "num_threads was 2, here it is 1",
        "the SHA-256 of the configuration's file was 0abc, here it is None",
    ]
