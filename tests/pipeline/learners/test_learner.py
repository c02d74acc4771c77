"""Does a stage learn exactly what it should from a microbatch, with the draws it should have?

Letters: N samples, F features.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Every,
    Need,
    NoGradient,
    SyntheticGradient,
)
from pipeline.messages import Activation, Gradient
from pipeline.stages.stage import Stage
from tests.pipeline.chain import (
    SOURCES,
    WIDTH,
    Constant,
    activation,
    downward,
    equal,
    features,
    gradient,
    labels,
    linear,
    make_stage,
    operations,
    upward,
    weights,
)

# Learning


def test_cadence_accumulates_and_divides_once_by_the_samples() -> None:
    stage = make_stage(index=2, cadence=3)
    sizes = (4, 4, 2)
    for step, num_samples in enumerate(sizes):
        stage.handle(activation(step, num_samples=num_samples))
        assert stage.version == (1 if step == 2 else 0)
    module = linear()
    for step, num_samples in enumerate(sizes):
        h = module(features(step, num_samples=num_samples))
        nn.functional.cross_entropy(h, labels(step, num_samples=num_samples), reduction="sum").backward()
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter -= 0.1 * (parameter.grad / 10)
    assert equal(weights(stage.module), weights(module))


def test_cadence_counts_steps_that_were_not_drawn() -> None:
    stage = make_stage(index=2, cadence=2, update_probability=0.5, seed=1)
    done = []
    for step in range(12):
        stage.handle(activation(step))
        done += operations(stage)
    learned = {step for step in range(12) if f"B{step}" in done}
    assert 0 < len(learned) < 12
    assert [o for o in done if o[0] == "U"] == [f"U{s}" for s in range(1, 12, 2) if {s, s - 1} & learned]


@pytest.mark.parametrize("source", SOURCES)
def test_step_not_drawn_moves_no_weight_and_sends_a_credit(source: str) -> None:
    stage = make_stage(
        source=SOURCES[source](),
        update_probability=0.0,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        max_in_flight=8,
    )
    before = weights(stage.module)
    for step, reach in enumerate((0, 3)):
        (sent,) = downward(stage.handle(activation(step, reach=reach)), stage)
        assert sent.value is None
        assert stage.accepts_activation, "what is not learned from has no gradient to wait for"
        assert stage.handle(gradient(step)) == []
    assert equal(before, weights(stage.module)) and stage.version == 0
    assert all(parameter.grad is None for parameter in stage.module.parameters())
    own = (
        ["F0", "D0", "F1", "D1"]
        if not stage.learner.source.learns_from & Need.GRADIENT
        else ["F0", "D0", "L0", "F1", "D1", "L1"]
    )
    assert operations(stage) == own, "its source still learns from what the stage above made of the step"


def test_update_draws_depend_on_seed_stage_and_step_only() -> None:
    def drawn(index: int, seed: int, steps: list[int]) -> set[int]:
        stage = make_stage(index=index, num_stages=4, source=Constant(1.0), update_probability=0.5, seed=seed)
        for step in steps:
            stage.handle(activation(step))
            stage.handle(gradient(step, None))
        return {int(o[1:]) for o in operations(stage) if o[0] == "B"}

    steps = list(range(20))
    assert drawn(1, 0, steps) == drawn(1, 0, steps[::-1])
    assert drawn(1, 0, steps) != drawn(2, 0, steps)
    assert drawn(1, 0, steps) != drawn(1, 1, steps)


def test_stage_without_a_gradient_computes_no_backward_below_the_reach() -> None:
    module = linear()
    backwards = []
    module.register_full_backward_hook(lambda *_: backwards.append(1))
    stage = make_stage(module, source=NoGradient(), max_in_flight=8)
    before = weights(module)
    for step in range(3):
        (sent,) = downward(stage.handle(activation(step)), stage)
        assert sent.value is None
        assert stage.handle(gradient(step)) == []
    assert not backwards and equal(before, weights(module))
    assert all(parameter.grad is None for parameter in module.parameters())
    assert operations(stage) == ["F0", "D0", "F1", "D1", "F2", "D2"]
    stage.handle(activation(3, reach=3))
    stage.handle(gradient(3))
    assert backwards and not equal(before, weights(module))
    assert operations(stage) == ["F3", "S3", "B3", "U3"]


@pytest.mark.parametrize(
    ("source", "reach", "probability", "graph"),
    [("none", 0, 1.0, False), ("none", 3, 1.0, True), ("synthetic", 0, 1.0, True), ("true", 3, 0.0, False)],
)
def test_stage_records_a_graph_only_where_it_will_pull_a_gradient_back(
    source: str, reach: int, probability: float, graph: bool
) -> None:
    found = []
    module = linear()
    module.register_forward_hook(lambda *_: found.append(torch.is_grad_enabled()))
    stage = make_stage(module, source=SOURCES[source](), update_probability=probability)
    stage.handle(activation(0, reach=reach))
    assert found == [graph]


def test_sync_step_that_comes_back_as_a_credit_is_passed_on_as_one() -> None:
    stage = make_stage(source=SyntheticGradient(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    before = weights(stage.module)
    stage.handle(activation(0, reach=3))
    (sent,) = downward(stage.handle(gradient(0, None)), stage)
    assert sent.value is None and not sent.exact
    assert equal(before, weights(stage.module))
    assert operations(stage) == ["F0", "S0", "D0"]


def test_source_learns_from_the_gradient_that_arrives_and_the_stage_does_not_learn_twice() -> None:
    stage = make_stage(source=SyntheticGradient(optimizer=lambda p: torch.optim.SGD(p, lr=0.05)))
    stage.handle(activation(0))
    after = weights(stage.module)
    losses = []
    for step in range(3):
        stage.handle(gradient(step, 1.0))
        if step == 0:
            assert equal(after, weights(stage.module))
        losses += [value for name, _, value in stage.recorder.take_values() if name == "source_loss"]
        stage.handle(activation(step + 1))
    assert losses[0] == pytest.approx(WIDTH) and losses[2] < losses[0]
    assert operations(stage)[:4] == ["F0", "B0", "U0", "L0"]


def test_parameter_that_does_not_learn_keeps_no_gradient_and_is_not_moved_by_momentum() -> None:
    class Switched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = linear(), linear(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + (self.idle(x) if x.shape[0] == 2 else 0.0)

    stage = make_stage(
        Switched(), index=2, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1)
    )
    stage.handle(activation(0, num_samples=2))
    before = weights(stage.module)
    stage.handle(activation(1))
    after = weights(stage.module)
    assert torch.equal(before["idle.weight"], after["idle.weight"])
    assert not torch.equal(before["used.weight"], after["used.weight"])


def test_staleness_counts_versions_between_forward_and_gradient() -> None:
    source = Constant(1.0)
    source.learns_from = Need.GRADIENT
    stage = make_stage(source=source, max_in_flight=4)
    for step in range(3):
        stage.handle(activation(step))
    for step in range(3):
        stage.handle(gradient(step))
    measured = [(step, value) for name, step, value in stage.recorder.take_values() if name == "staleness"]
    assert measured == [(0, 3), (1, 2), (2, 1)]


@pytest.mark.parametrize("reach", [0, 2])
def test_stage_whose_output_depends_on_no_parameter_learns_nothing_and_does_not_fail(reach: int) -> None:
    frozen = linear().requires_grad_(False)
    for module in (nn.Flatten(), frozen):
        stage = make_stage(module, index=0, num_stages=2, source=Constant(1.0))
        before = weights(stage.module)
        sends = stage.handle(activation(0, reach=reach)) + stage.handle(gradient(0))
        assert [send.to for send in sends] == [1]
        assert stage.accepts_activation and equal(before, weights(stage.module))


# Tuples


class Tokens(nn.Module):
    """(features (N, F), indices (N,)) -> (features, indices, constant), the last without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = linear()

    def forward(self, members: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, indices = members[:2]
        return self.linear(x) * indices[:, None], indices + 1, torch.ones(len(x), 1)


@pytest.mark.parametrize("source", ["true", "synthetic", "none"])
def test_integer_member_of_a_tuple_passes_through_without_a_gradient(source: str) -> None:
    stage = make_stage(Tokens(), source=SOURCES[source]())
    indices = torch.arange(4)
    sends = stage.handle(Activation(step=0, h=(features(0), indices), target=labels(0), reach=3))
    (sent,) = upward(sends, stage)
    assert isinstance(sent.h, tuple)
    assert torch.equal(sent.h[1], indices + 1) and sent.h[1].dtype == torch.int64
    before = weights(stage.module)
    answer = Gradient(step=0, value=(torch.ones(4, WIDTH), None, torch.ones(4, 1)))
    sends = stage.handle(answer)
    (down,) = downward(sends, stage)
    assert isinstance(down.value, tuple) and down.value[1] is None
    expected = torch.ones(4, WIDTH) * indices[:, None] @ before["linear.weight"]
    torch.testing.assert_close(down.value[0], expected)
    assert not equal(before, weights(stage.module))


def test_quality_is_measured_where_a_member_of_the_output_has_no_graph() -> None:
    stage = make_stage(Tokens(), source=SyntheticGradient(), measure_every=1)
    answer = (torch.ones(4, WIDTH), None, torch.ones(4, 1))
    for step, reach in enumerate((0, 3)):
        stage.handle(Activation(step=step, h=(features(step), torch.arange(4)), target=labels(step), reach=reach))
        stage.handle(Gradient(step=step, value=answer))
    names = [name for name, step, _ in stage.recorder.take_values() if step == 1]
    assert {"gradient_cosine", "parameter_cosine"} <= set(names)


def test_member_that_the_stage_ignores_gets_a_zero_gradient() -> None:
    class First(nn.Module):
        def forward(self, members: tuple[Tensor, Tensor]) -> Tensor:
            return members[0] * 2

    stage = make_stage(First())
    stage.handle(Activation(step=0, h=(features(0), features(1)), target=labels(0)))
    (sent,) = downward(stage.handle(gradient(0, 1.0)), stage)
    assert isinstance(sent.value, tuple) and sent.value[0] is not None and sent.value[1] is not None
    assert torch.equal(sent.value[0], torch.full((4, WIDTH), 2.0))
    assert torch.equal(sent.value[1], torch.zeros(4, WIDTH))


# Keyed draws


def _dropped(stage: Stage, step: int) -> Tensor:
    (sent,) = upward(stage.handle(activation(step)), stage)
    stage.handle(gradient(step, None))
    assert isinstance(sent.h, Tensor)
    return sent.h == 0


def test_dropout_depends_on_seed_stage_and_step_only() -> None:
    def masks(order: list[int], *, index: int = 1, seed: int = 0, disturb: bool = False) -> dict[int, Tensor]:
        stage = make_stage(nn.Dropout(0.5), index=index, num_stages=5, source=NoGradient(), seed=seed)
        found = {}
        for step in order:
            if disturb:
                torch.rand(7)
            found[step] = _dropped(stage, step)
        return found

    steps = list(range(8))
    reference = masks(steps)
    assert equal(reference, masks(steps[::-1])) and equal(reference, masks(steps, disturb=True))
    assert not equal(reference, masks(steps, index=2))
    assert not equal(reference, masks(steps, seed=1))
    assert not torch.equal(reference[0], reference[1])


def _trained_beside_measurements(measure_every: int) -> tuple[dict[str, Tensor], dict[str, Tensor], set[str]]:
    source = SyntheticGradient("mlp")
    module = nn.Sequential(linear(), nn.BatchNorm1d(WIDTH), nn.Dropout(0.3), linear(2))
    stage = make_stage(module, source=source, measure_every=measure_every, max_in_flight=8)
    for step in range(12):
        stage.handle(activation(step, reach=3 * (step % 3 == 2)))
        stage.handle(Gradient(step=step, value=features(step + 50)))
    names = {name for name, _, _ in stage.recorder.take_values()}
    learned = {name: value.clone() for name, value in source.named_parameters()}
    return weights(module), learned, names


def test_measuring_quality_at_sync_steps_does_not_change_training() -> None:
    without, with_it = _trained_beside_measurements(0), _trained_beside_measurements(1)
    assert equal(without[0], with_it[0])
    assert equal(without[1], with_it[1])
    measures = ("cosine", "norm_ratio", "projection", "relative_error")
    assert with_it[2] - without[2] == {f"parameter_{measure}" for measure in measures}
    assert {"gradient_cosine", "gradient_norm_ratio", "source_loss", "staleness"} <= without[2]


def test_parameter_gradients_are_compared_once_in_measure_every_sync_steps() -> None:
    stage = make_stage(source=SyntheticGradient(), sync=Every(1), index=0, num_stages=2, measure_every=3)
    for step in range(7):
        stage.handle(activation(step))
        stage.handle(gradient(step))
    values = stage.recorder.take_values()
    assert [step for name, step, _ in values if name == "gradient_cosine"] == [1, 2, 3, 4, 5, 6]
    assert [step for name, step, _ in values if name == "parameter_cosine"] == [1, 4]


def test_stage_copies_an_input_that_its_module_writes_into() -> None:
    for index in (0, 1):
        module = nn.Sequential(nn.ReLU(inplace=True), linear())
        stage = make_stage(module, index=index, modifies_input=True, source=Constant(1.0))
        message = activation(0)
        kept = message.h.clone()
        stage.handle(message)
        assert torch.equal(message.h, kept)


class Layout(nn.Module):
    """Takes down how its input lies in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.seen: list[tuple[tuple[int, ...], int]] = []

    def forward(self, h: Tensor) -> Tensor:
        self.seen.append((h.stride(), h.data_ptr() % 64))
        self.latest = h.detach()
        return h * self.weight


def test_what_comes_from_another_stage_lies_in_memory_as_if_it_had_come_through_a_wire() -> None:
    """In 0.1, kernels that go by strides or alignment gave other bits where two stages shared a process."""
    turned = torch.randn(WIDTH, 4).t()
    shifted = torch.randn(1 + 4 * WIDTH)[1:].view(4, WIDTH)
    one_sample = torch.randn(4, 7)[:1, :WIDTH]
    assert (turned.stride(), shifted.data_ptr() % 64, one_sample.stride()) == ((1, 4), 4, (7, 1))
    stage = make_stage(Layout(), index=1, max_in_flight=8)
    for step, h in enumerate((turned, shifted, one_sample)):
        target = labels(step, num_samples=len(h))
        stage.handle(Activation(step=step, h=h, target=target))
        assert isinstance(stage.module, Layout) and torch.equal(stage.module.latest, h)
        (pulled,) = downward(stage.handle(Gradient(step=step, value=torch.ones(WIDTH, len(h)).t())), stage)
        assert isinstance(pulled.value, Tensor) and pulled.value.shape == h.shape
    assert isinstance(stage.module, Layout) and stage.module.seen == [((WIDTH, 1), 0)] * 3
    first = make_stage(Layout(), index=0)
    first.handle(Activation(step=0, h=turned, target=labels(0)))
    assert isinstance(first.module, Layout) and first.module.seen[0][0] == (1, 4), "the data's own layout is meant"
