"""Is the network cut where it was asked for, and do the stages still carry its names?"""

from __future__ import annotations

import itertools
import math
import time
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.configuration.partition import Partition, _smallest_maximum, partition
from pipeline.errors import PartitionError


def _sequential(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))


def _sizes(cut: Partition) -> list[int]:
    return [len(list(stage.children())) for stage in cut.stages]


def _exported(cut: Partition) -> dict[str, Tensor]:
    return {
        full: cut.stages[index].state_dict()[local]
        for index in range(len(cut))
        for local, full in cut.names(index).items()
    }


class Nested(nn.Module):
    """A chain whose second child is a Sequential inside a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.body = nn.Sequential(
            OrderedDict(
                first=nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()),
                second=nn.Sequential(nn.Linear(6, 6), nn.ReLU()),
            )
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))


class Slow(nn.Module):
    """Takes a while, and returns so many features."""

    def __init__(self, seconds: float, width: int = 3) -> None:
        super().__init__()
        self.seconds, self.width = seconds, width

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x[:, :1].expand(-1, self.width)


def test_cut_by_count_evens_out_the_layers() -> None:
    assert _sizes(partition(_sequential(2, 2, 2, 2, 2, 2), 5)) == [1, 1, 1, 1, 1]
    assert sorted(_sizes(partition(_sequential(2, 2, 2, 2, 2, 2), 2))) == [2, 3]
    assert sorted(_sizes(partition(nn.Sequential(*(nn.ReLU() for _ in range(8))), 3))) == [2, 3, 3]
    assert _sizes(partition(_sequential(2, 2, 2), 1)) == [2]


def test_cut_by_parameters_evens_out_the_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 40), nn.Linear(40, 4), nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Linear(4, 1))
    by_count, by_parameters = partition(model, 2), partition(model, 2, by="parameters")
    assert _sizes(by_count) == [3, 3]
    assert _sizes(by_parameters) == [1, 5]


def test_cut_by_time_evens_out_the_seconds() -> None:
    model = nn.Sequential(Slow(0.02), nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.Linear(3, 3))
    assert _sizes(partition(model, 2, by="time", batch=torch.randn(2, 3))) == [1, 4]


def test_cut_by_time_counts_the_sources() -> None:
    model = nn.Sequential(*(Slow(0.01) for _ in range(6)))
    assert _sizes(partition(model, 2, by="time", batch=torch.randn(2, 3))) == [3, 3]
    assert _sizes(partition(model, 2, by="time", batch=torch.randn(2, 3), source_s=[lambda h: 0.02])) == [2, 4]
    for widths, sizes in (((3, 9, 3, 3), [3, 2]), ((3, 3, 9, 3), [2, 3])):
        model = nn.Sequential(*(Slow(0.01, width) for width in widths), Slow(0.01))
        cut = partition(model, 2, by="time", batch=torch.randn(2, 3), source_s=[lambda h: 0.1 * (h.shape[1] == 9)])
        assert _sizes(cut) == sizes, "a source is cheap where the output is narrow"


@pytest.mark.parametrize(
    ("costs", "beside", "starts"),
    [
        ([1, 1, 1, 1], [], [0, 2]),
        ([1, 1, 1, 1], [[2, 2, 2, 2]], [0, 1]),
        ([1, 1, 1, 1], [[math.inf, math.inf, 0, 0]], [0, 3]),
        ([1, 1, 1, 1, 1], [[0] * 5, [3] * 5], [0, 2, 3]),
    ],
)
def test_further_cost_of_a_stage_moves_its_end(
    costs: list[float], beside: list[list[float]], starts: list[int]
) -> None:
    assert _smallest_maximum(costs, len(beside) + 1 if beside else 2, beside) == starts


def test_measuring_time_leaves_the_model_untouched() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True))
    batch = torch.randn(4, 3)
    before, kept = {n: v.clone() for n, v in model.state_dict().items()}, batch.clone()
    partition(model, 2, by="time", batch=batch)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(batch, kept) and all(p.grad is None for p in model.parameters())


def test_time_cannot_be_measured_without_a_batch() -> None:
    with pytest.raises(PartitionError, match="give batch=x"):
        partition(_sequential(2, 2, 2), 2, by="time")


def test_cut_at_names_begins_stages_there() -> None:
    model = Nested()
    cut = partition(model, at=["body.first.1", "body.second", "head"])
    assert _sizes(cut) == [2, 2, 2, 1]
    assert cut.stages[1][0] is model.body[0][1]
    assert cut.stages[3][0] is model.head
    assert _sizes(partition(model, at=["body"])) == [1, 6]


def test_nested_sequential_is_opened_and_computes_the_same() -> None:
    model = Nested().eval()
    x = torch.randn(5, 4)
    for num_stages in range(1, 8):
        h = x
        for stage in partition(model, num_stages).stages:
            h = stage.eval()(h)
        assert torch.equal(h, model(x))
    with pytest.raises(PartitionError, match=r"\[1, 7\] \(the layers there are\), got 8"):
        partition(model, 8)


@pytest.mark.parametrize("num_stages", [1, 2, 4, 7])
def test_names_are_the_models_own_and_the_export_loads_strictly(num_stages: int) -> None:
    model = Nested()
    exported = _exported(partition(model, num_stages))
    assert list(exported) == list(model.state_dict())
    with torch.no_grad():
        for value in exported.values():
            value.add_(1)
    other = Nested()
    other.load_state_dict(exported, strict=True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())


def test_more_than_ten_layers_keep_their_names_apart() -> None:
    model = _sequential(*[2] * 14)
    for num_stages in (1, 2):
        cut = partition(model, num_stages)
        assert [name for i in range(len(cut)) for name in cut.names(i).values()] == list(model.state_dict())


def test_list_of_modules_is_the_stages() -> None:
    modules = [nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 3)]
    cut = partition(modules)
    assert len(cut) == 2 and cut.model is None
    assert cut.stages[0][0] is modules[0]
    assert set(_exported(cut)) == {"0.0.weight", "0.0.bias", "1.weight", "1.bias"}
    nn.Sequential(*modules).load_state_dict(_exported(cut), strict=True)


def test_list_of_modules_can_be_joined_into_fewer_stages() -> None:
    assert _sizes(partition([nn.Linear(2, 2) for _ in range(4)], 2)) == [2, 2]
    assert _sizes(partition(iter([nn.Linear(2, 2) for _ in range(3)]))) == [1, 1, 1]


def test_stages_hold_the_users_own_modules() -> None:
    model = _sequential(2, 3, 4)
    cut = partition(model, 2)
    assert cut.model is model
    assert next(cut.stages[0].parameters()) is model[0].weight


def test_module_without_children_is_one_stage() -> None:
    model = nn.Linear(2, 3)
    cut = partition(model, 1)
    assert list(cut.names(0).values()) == ["weight", "bias"]
    with pytest.raises(PartitionError, match=r"\[1, 1\]"):
        partition(model, 2)


@pytest.mark.parametrize(
    ("at", "num_stages", "message"),
    [
        (["nowhere"], None, "no layer is called 'nowhere'; the layers are stem, body.first.0, "),
        (["head", "body"], None, r"in the order of the layers and after the first, got \['head', 'body'\]"),
        (["stem"], None, "after the first"),
        (["body", "body"], None, "in the order"),
        (["body"], 3, "1 cuts make 2 stages, but num_stages is 3"),
        ([], None, "give num_stages, or at="),
        ([], 0, r"num_stages must lie in \[1, 7\]"),
    ],
)
def test_impossible_cut_is_refused(at: list[str], num_stages: int | None, message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        partition(Nested(), num_stages, at=at)


def test_cut_at_names_may_repeat_the_number_of_stages() -> None:
    assert len(partition(Nested(), 2, at=["body"])) == 2


def test_model_without_layers_is_refused() -> None:
    with pytest.raises(PartitionError, match="no layers"):
        partition([], 1)


def test_activation_that_stands_in_several_places_is_kept_in_all_of_them() -> None:
    drop = nn.Dropout(0.5)
    model = nn.Sequential(nn.Linear(2, 2), drop, nn.Sequential(nn.Linear(2, 2), drop), nn.Linear(2, 2))
    assert _sizes(partition(model, at=["2"])) == [2, 3]
    cut = partition(model, at=["2"])
    cut.stages[0].eval()
    assert all(module.training for module in cut.stages[1].modules()), "each stage has a mode of its own"
    assert list(_exported(cut)) == list(model.state_dict())
    assert [type(layer) for stage in cut.stages for layer in stage] == [
        nn.Linear, nn.Dropout, nn.Linear, nn.Dropout, nn.Linear,
    ]  # fmt: skip


def test_parameter_in_two_stages_is_refused_by_name() -> None:
    model = Nested()
    model.body[1][0].weight = model.body[0][0].weight
    with pytest.raises(
        PartitionError,
        match=r"body\.first\.0\.weight \(stage 0\) and body\.second\.0\.weight \(stage 1\) are the same tensor",
    ):
        partition(model, at=["body.second"])
    assert len(partition(model, at=["body"])) == 2, "within one stage it may be shared"


def test_buffer_in_two_stages_is_refused_by_name() -> None:
    norm = nn.BatchNorm1d(2)
    with pytest.raises(PartitionError, match=r"0\.weight \(stage 0\) and 2\.weight \(stage 1\)"):
        partition(nn.Sequential(norm, nn.Linear(2, 2), norm), 2)
    first, second = nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2, affine=False)
    second.running_mean = first.running_mean
    with pytest.raises(PartitionError, match=r"0\.running_mean \(stage 0\) and 1\.running_mean \(stage 1\)"):
        partition(nn.Sequential(first, second), 2)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=8).flatmap(
        lambda c: st.tuples(st.just(c), st.integers(1, len(c)))
    )
)
def test_largest_total_is_the_smallest_of_all_cuts(drawn: tuple[list[int], int]) -> None:
    costs, num_stages = drawn

    def largest(starts: tuple[int, ...]) -> int:
        ends = (*starts[1:], len(costs))
        return max(sum(costs[a:b]) for a, b in zip(starts, ends, strict=True))

    cuts = [(0, *rest) for rest in itertools.combinations(range(1, len(costs)), num_stages - 1)]
    found = tuple(_smallest_maximum(costs, num_stages))
    assert found in cuts
    assert largest(found) == min(map(largest, cuts))
