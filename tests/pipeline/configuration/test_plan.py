"""Does the plan read everything from one real batch, refuse what cannot work, and leave no trace?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    ConditionalSyntheticGradient,
    Critic,
    DirectFeedbackAlignment,
    GradientSource,
    LocalLoss,
    LossGradient,
    Members,
    MixedGradient,
    Need,
    NoGradient,
    ReceivedInput,
    Shadow,
    ShrunkGradient,
    Signal,
    SyntheticGradient,
    TrueGradient,
    VirtualGradient,
    ZeroGradient,
)
from pipeline import Config, Data, KeyedBatches, prepare
from pipeline.configuration.partition import partition
from pipeline.configuration.plan import StagePlan, source_seconds, survey
from pipeline.errors import ConfigurationError, PartitionError

X, TARGET = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


def _survey(
    modules: Sequence[nn.Module] | nn.Module,
    *,
    source: GradientSource | None = None,
    loss: Any = None,
    x: Any = X,
    target: Tensor | None = TARGET,
    num_stages: int | None = None,
) -> tuple[StagePlan, ...]:
    cut = partition(modules, num_stages)
    below = [source or NoGradient()] * (len(cut) - 1)
    inputs = [ReceivedInput()] * (len(cut) - 1)
    return survey(cut, [*below, LossGradient(loss or nn.CrossEntropyLoss())], inputs, (x, target), seed=0)


class _Widening(nn.Linear):
    """A synthesizer that ends in twice the width of h."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 2 * width)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(h)


class Returning(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def test_plan_shows_shapes_parameters_and_work() -> None:
    first, second = _survey([nn.Linear(4, 8), nn.Linear(8, 3)], source=SyntheticGradient())
    assert first.held_bytes == 6 * 4 * 4, "of a linear layer the input, and not its weights"
    assert (first.index, first.num_parameters, first.forward_flops) == (0, 40, 2 * 6 * 4 * 8)
    assert (first.input_shapes, first.output_shapes) == (("(6, 4) float32",), ("(6, 8) float32",))
    assert (first.activation_bytes, first.source, first.source_parameters) == (6 * 8 * 4, "SyntheticGradient", 72)
    assert (second.index, second.num_parameters, second.source) == (1, 27, "LossGradient")
    assert second.output_shapes == ("(6, 3) float32",)


def test_survey_leaves_model_sources_and_global_generator_untouched() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source, kept = SyntheticGradient(), X.clone()
    torch.manual_seed(3)
    _survey(model, num_stages=2, source=source)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module.training for module in model), "the mode is the caller's"
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not list(source.parameters()) and torch.equal(X, kept)


def test_modules_that_write_into_their_input_are_found() -> None:
    stages = [nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))]
    assert [plan.modifies_input for plan in _survey(stages)] == [False, True, False]


def test_member_of_a_tuple_that_is_written_into_is_found() -> None:
    def write(members: tuple[Tensor, Tensor]) -> Tensor:
        members[1].add_(1)
        return members[0]

    first = Returning(lambda x: (x, torch.arange(len(x))))
    assert [plan.modifies_input for plan in _survey([first, Returning(write)])] == [False, True]


def test_stages_that_do_not_chain_are_refused_with_boundary_and_shapes() -> None:
    with pytest.raises(PartitionError, match=r"stage 1 cannot take \(6, 8\) float32 \(from stage 0\): RuntimeError"):
        _survey([nn.Linear(4, 8), nn.Linear(9, 3)])
    with pytest.raises(PartitionError, match=r"stage 0 cannot take \(6, 4\) float32 \(from the data\)"):
        _survey([nn.Linear(5, 8), nn.Linear(8, 3)])


def test_samples_that_leave_the_first_axis_are_refused() -> None:
    for function in (torch.t, lambda x: x.sum(), lambda x: x[:3]):
        with pytest.raises(PartitionError, match="stage 0 must keep the samples on the first axis: 6 went in"):
            _survey([Returning(function), nn.Linear(4, 3)])


@pytest.mark.parametrize("value", [None, [X], "text", (X, None), torch.arange(6)])
def test_stage_that_returns_no_floating_point_tensor_is_refused(value: Any) -> None:
    with pytest.raises(PartitionError, match="stage 0 must return a tensor or a tuple of tensors"):
        _survey([Returning(lambda x: value), nn.Linear(4, 3)])


class Residual(nn.Module):
    """Its children do not follow one another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x + self.first(x))


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.drop(self.first(x)))


def test_module_that_is_not_a_chain_of_its_children_is_refused() -> None:
    with pytest.raises(PartitionError, match="Residual is not a plain chain of its children"):
        _survey(Residual(), num_stages=2)
    assert len(_survey(Chain(), num_stages=2)) == 2


def test_loss_that_cannot_take_the_batch_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"the loss cannot take the first batch: stage 1 returns \(6, 3\)"):
        _survey([nn.Linear(4, 4), nn.Linear(4, 3)], target=torch.zeros(5, dtype=torch.long))
    with pytest.raises(ConfigurationError, match=r"the labels are \(6,\) float32"):
        _survey([nn.Linear(4, 4), nn.Linear(4, 3)], target=torch.zeros(6))


def test_labels_that_the_network_has_no_output_for_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"the loss cannot take .*out of bounds"):
        _survey([nn.Linear(4, 4), nn.Linear(4, 2)])


class Needy(nn.Module):
    """A source that needs what is asked for, and returns a gradient of the given shape."""

    learns_from = Need.NONE

    def __init__(self, needs: Need, shape: tuple[int, ...] = (6, 4)) -> None:
        super().__init__()
        self.needs, self.shape = needs, shape

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        pass

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        return torch.zeros(self.shape)

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0


def test_need_that_no_boundary_carries_is_refused() -> None:
    learner = Needy(Need.NONE)
    learner.learns_from = Need.INPUT
    for source in (Needy(Need.INPUT | Need.TARGET), learner):
        with pytest.raises(ConfigurationError, match=r"boundary 0-1: the source Needy of stage 0 needs .*INPUT"):
            _survey([nn.Linear(4, 4), nn.Linear(4, 3)], source=source)


def test_bytes_that_the_last_stage_sends_a_source_are_counted() -> None:
    stages = [nn.Linear(4, 4), nn.Linear(4, 3)]
    sources = (
        SyntheticGradient(),
        DirectFeedbackAlignment(3),
        Critic(3),
        Shadow(Critic(3), DirectFeedbackAlignment(3)),
    )
    found = [_survey(stages, source=source)[0].error_bytes for source in sources]
    assert found == [0, 6 * 3 * 4, 6 * 4, 6 * 3 * 4 + 6 * 4]


def test_error_of_another_width_than_a_source_was_made_for_is_refused() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"source DirectFeedbackAlignment cannot take the first batch: stage 0 .*Set num_outputs to 3",
    ):
        _survey([nn.Linear(4, 4), nn.Linear(4, 3)], source=DirectFeedbackAlignment(5))


@pytest.mark.parametrize("source", [DirectFeedbackAlignment(3), Critic(3)], ids=["error", "loss"])
def test_error_of_a_network_that_does_not_end_in_one_tensor_is_refused(source: GradientSource) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"boundary 0-1: the source \w+ of stage 0 needs .* must be one tensor.*tuple of 2\. Let the network end",
    ):
        _survey([nn.Linear(4, 3), Returning(lambda h: (h, h))], source=source)


def test_labels_that_a_source_or_loss_needs_must_be_there() -> None:
    for source in (ConditionalSyntheticGradient(3), None):
        with pytest.raises(ConfigurationError, match="needs TARGET, but the data gives no labels"):
            _survey([nn.Linear(4, 4), nn.Linear(4, 3)], source=source, target=None)


def test_gradient_of_another_shape_than_the_output_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"1: the source Needy of stage 0 .* \(6, 4\) float32, got \(6, 5\)"):
        _survey([nn.Linear(4, 4), nn.Linear(4, 3)], source=Needy(Need.NONE, (6, 5)))


def test_gradient_of_another_dtype_than_the_output_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"\(6, 4\) float64, got \(6, 4\) float32.*end in the output's shape"):
        _survey([nn.Linear(4, 4).double(), nn.Linear(4, 3).double()], source=Needy(Need.NONE), x=X.double())


@pytest.mark.parametrize("source", [SyntheticGradient, lambda made: ConditionalSyntheticGradient(3, made)])
def test_synthesizer_of_another_shape_than_the_output_is_refused(source: Callable[[Any], GradientSource]) -> None:
    match = r"boundary 0-1: the source \w+ cannot take the first batch: .*shape \(6, 4\), got \(6, 8\).*Make its last"
    with pytest.raises(ConfigurationError, match=match):
        _survey([nn.Linear(4, 4), nn.Linear(4, 3)], source=source(lambda h, k: _Widening(4)))


@pytest.mark.parametrize("source", [ConditionalSyntheticGradient(2), LocalLoss(2), VirtualGradient(2)])
def test_class_that_a_source_does_not_know_is_found_in_the_first_batch_of_a_stream(source: GradientSource) -> None:
    config = Config(
        model=lambda: [nn.Linear(4, 4), nn.Linear(4, 3)],
        data=lambda: Data(train=[(X, TARGET)]),
        loss=nn.CrossEntropyLoss(),
        source=source,
        steps=1,
    )
    with pytest.raises(ConfigurationError, match=r"boundary 0-1: the source .* must lie in \[0, 2\), got 0 to 2"):
        prepare(config)


def test_source_that_cannot_serve_the_output_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"source SyntheticGradient cannot take the first batch: stage 0"):
        _survey([nn.Linear(4, 4), nn.Linear(4, 3)], source=SyntheticGradient("convolutional"))


def test_every_source_of_the_package_can_be_planned() -> None:
    for source in (
        TrueGradient(),
        NoGradient(),
        ZeroGradient(),
        ShrunkGradient(0.5),
        SyntheticGradient(),
        MixedGradient(LocalLoss(3)),
        VirtualGradient(3),
        Shadow(ConditionalSyntheticGradient(3)),
    ):
        plans = _survey([nn.Linear(4, 4), nn.Linear(4, 3)], source=source)
        assert plans[0].source == type(source).__name__


@pytest.mark.parametrize(
    "source", [ConditionalSyntheticGradient(4), Shadow(ConditionalSyntheticGradient(4))], ids=["acting", "shadow"]
)
@pytest.mark.parametrize("label", [4, -1])
def test_label_outside_the_declared_classes_is_refused_wherever_it_stands(source: GradientSource, label: int) -> None:
    target = torch.arange(40) % 4
    target[39] = label
    x = torch.randn(40, 4)
    order = KeyedBatches(x, target, batch_size=4)
    assert label not in order.peek()[1].tolist(), "the first batch does not show it"
    config = Config(
        model=lambda: [nn.Linear(4, 4), nn.Linear(4, 5)],
        data=lambda: Data(train=order),
        loss=nn.CrossEntropyLoss(),
        source=source,
        steps=2,
    )
    with pytest.raises(ConfigurationError, match=r"stage 0 declares 4 classes \(0 to 3\), the labels run from"):
        prepare(config)


def test_seconds_of_a_source_are_measured_on_a_copy() -> None:
    source = ConditionalSyntheticGradient(num_classes=3)
    measure = source_seconds(source, TARGET, seed=0)
    assert 0.0 < measure(torch.randn(6, 8)) < 1.0
    assert not list(source.parameters()), "the source itself is not built"
    assert measure(torch.randn(6)) == math.inf, "there is no feature axis to predict over"
    assert source_seconds(source, None, seed=0)(torch.randn(6, 8)) == math.inf, "and without labels nothing to ask with"


def test_cut_by_time_counts_the_sources_of_a_configuration() -> None:
    class Slow(NoGradient):
        def estimate(self, h: Members, signal: Signal) -> Members | None:
            assert isinstance(h, Tensor)
            time.sleep(0.02 * (h.shape[1] == 5))
            return None

    layers = [nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(5, 3)]
    config = Config(
        model=lambda: nn.Sequential(*layers),
        data=lambda: Data(train=KeyedBatches(X, TARGET, batch_size=6)),
        loss=nn.CrossEntropyLoss(),
        source=Slow(),
        steps=1,
        num_stages=2,
        balance="time",
    )
    cut = prepare(config).cut
    assert [len(list(stage.children())) for stage in cut.stages] == [1, 2]
