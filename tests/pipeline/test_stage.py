"""Does a stage do with each message what it must, and nothing else? Driven by hand: no executor, no clock that matters.

Letters: N samples, F features.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Bernoulli,
    ConditionalSyntheticGradient,
    Every,
    GradientSource,
    LossGradient,
    Members,
    Need,
    NoGradient,
    Signal,
    SyntheticGradient,
    TrueGradient,
)
from pipeline.errors import NotFinite, StageFailure
from pipeline.messages import Activation, Drain, Gradient, Send, Stop
from pipeline.stage import Stage
from tests.pipeline.chain import WIDTH, activation, equal, features, labels, linear, make_stage, operations, weights

SOURCES = {
    "true": TrueGradient,
    "synthetic": SyntheticGradient,
    "conditional": lambda: ConditionalSyntheticGradient(WIDTH),
    "none": NoGradient,
}


class Constant(nn.Module):
    """A source that always says the same."""

    needs = Need.NONE
    learns_from = Need.NONE

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        pass

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        assert isinstance(h, Tensor)
        return torch.full_like(h, self.value)

    def learn(self, h: Members, signal: Signal) -> float:
        return 0.0


def _gradient(step: int, value: float | None = 1.0, **more: Any) -> Gradient:
    return Gradient(step=step, value=None if value is None else torch.full((4, WIDTH), value), **more)


def _downward(sends: list[Send], stage: Stage) -> list[Gradient]:
    return [s.message for s in sends if s.to == stage.settings.index - 1 and isinstance(s.message, Gradient)]


def _upward(sends: list[Send], stage: Stage) -> list[Activation]:
    return [s.message for s in sends if s.to == stage.settings.index + 1 and isinstance(s.message, Activation)]


# Answers


@pytest.mark.parametrize(
    ("source", "probability", "reach", "training", "answer"),
    list(itertools.product(SOURCES, (0.0, 0.5, 1.0), (0, 3), (True, False), (1.0, None))),
)
def test_stage_answers_every_activation_exactly_once(
    source: str, probability: float, reach: int, training: bool, answer: float | None
) -> None:
    stage = make_stage(source=SOURCES[source](), update_probability=probability, max_in_flight=8)
    answered, sent_on = [], []
    for step in range(6):
        assert stage.accepts_activation
        sends = stage.handle(activation(step, reach=reach, training=training))
        sends += stage.handle(_gradient(step, answer if training else None))
        answered += [gradient.step for gradient in _downward(sends, stage)]
        sent_on += [message.step for message in _upward(sends, stage)]
        assert len(sends) == 2
    assert answered == sent_on == list(range(6))
    assert stage.in_flight == 0


@pytest.mark.parametrize("source", SOURCES)
def test_first_stage_sends_nothing_down_and_last_stage_nothing_up(source: str) -> None:
    first = make_stage(index=0, source=SOURCES[source]())
    sends = first.handle(activation(0)) + first.handle(_gradient(0))
    assert [send.to for send in sends] == [1]
    last = make_stage(index=2)
    assert [send.to for send in last.handle(activation(0))] == [1]
    assert last.in_flight == 0


def test_activation_carries_target_reach_version_and_output() -> None:
    stage = make_stage(source=Constant(0.0))
    stage.load_state_dict(stage.state_dict() | {"version": 7})
    message = activation(3, reach=1)
    (sent,) = _upward(stage.handle(message), stage)
    assert (sent.step, sent.reach, sent.version, sent.training) == (3, 1, 7, True)
    assert sent.target is message.target
    assert isinstance(sent.h, Tensor) and not sent.h.requires_grad
    torch.testing.assert_close(sent.h, linear()(message.h), rtol=0, atol=0)


def test_gradient_sent_down_is_the_estimate_pulled_back_through_the_stage() -> None:
    stage = make_stage(source=Constant(2.0))
    weight = weights(stage.module)["weight"]
    (sent,) = _downward(stage.handle(activation(0)), stage)
    torch.testing.assert_close(sent.value, torch.full((4, WIDTH), 2.0) @ weight)
    assert not sent.exact


def test_gradient_from_above_is_pulled_back_and_stays_as_exact_as_it_came() -> None:
    for exact in (True, False):
        stage = make_stage()
        weight = weights(stage.module)["weight"]
        stage.handle(activation(0))
        (sent,) = _downward(stage.handle(_gradient(0, 3.0, exact=exact)), stage)
        torch.testing.assert_close(sent.value, torch.full((4, WIDTH), 3.0) @ weight)
        assert sent.exact is exact


def test_last_stage_sends_the_gradient_of_the_summed_loss() -> None:
    stage = make_stage(index=2)
    x = features(0).requires_grad_()
    nn.functional.cross_entropy(linear()(x), labels(0), reduction="sum").backward()
    (sent,) = _downward(stage.handle(activation(0)), stage)
    torch.testing.assert_close(sent.value, x.grad, rtol=0, atol=0)
    assert sent.exact


def test_first_stage_decides_the_reach_from_a_draw_keyed_by_the_step() -> None:
    decided = []
    for order in ((0, 1, 2, 3, 4, 5), (5, 3, 1, 0, 2, 4)):
        stage = make_stage(index=0, source=NoGradient(), sync=Bernoulli(0.5), seed=4)
        by_step = {}
        for step in order:
            by_step[step] = _upward(stage.handle(activation(step, reach=99)), stage)[0].reach
            stage.handle(_gradient(step, None))
        decided.append(by_step)
    assert decided[0] == decided[1]
    assert set(decided[0].values()) == {0, 3}


# What may be handled


def test_stage_takes_no_more_microbatches_than_its_bound() -> None:
    stage = make_stage(max_in_flight=3, source=SyntheticGradient())
    for step in range(3):
        assert stage.accepts_activation
        stage.handle(activation(step))
    assert stage.in_flight == 3 and not stage.accepts_activation
    stage.handle(_gradient(0, None))
    assert stage.in_flight == 2 and stage.accepts_activation


@pytest.mark.parametrize("source", ["synthetic", "conditional", "none"])
def test_sync_step_blocks_later_activations_until_its_gradient(source: str) -> None:
    stage = make_stage(max_in_flight=8, source=SOURCES[source]())
    stage.handle(activation(0))
    assert stage.accepts_activation
    assert not _downward(stage.handle(activation(1, reach=2)), stage)
    assert not stage.accepts_activation
    stage.handle(_gradient(0))
    assert not stage.accepts_activation, "the gradient of an earlier step must not end the wait"
    before = weights(stage.module)
    (sent,) = _downward(stage.handle(_gradient(1)), stage)
    assert sent.value is not None and stage.accepts_activation
    assert not equal(before, weights(stage.module))


def test_stage_below_the_reach_uses_its_own_source() -> None:
    stage = make_stage(max_in_flight=8, source=Constant(1.0))
    (sent,) = _downward(stage.handle(activation(0, reach=1)), stage)
    assert sent.value is not None and stage.accepts_activation


def test_due_update_waits_while_something_is_held() -> None:
    stage = make_stage(cadence=2, max_in_flight=4)
    before = weights(stage.module)
    stage.handle(activation(0))
    assert stage.accepts_activation
    stage.handle(activation(1))
    assert not stage.accepts_activation, "the next window is forwarded with the new weights"
    stage.handle(_gradient(0))
    assert equal(before, weights(stage.module)) and stage.version == 0
    assert not stage.accepts_activation
    stage.handle(_gradient(1))
    assert not equal(before, weights(stage.module)) and stage.version == 1
    assert stage.accepts_activation
    assert operations(stage) == ["F0", "F1", "B0", "B1", "U1"]


def test_due_update_waits_for_a_held_sync_step_of_the_same_window() -> None:
    stage = make_stage(cadence=2, source=Constant(1.0), max_in_flight=4)
    stage.handle(activation(0))
    stage.handle(activation(1, reach=3))
    assert stage.version == 0
    stage.handle(_gradient(1, None))  # the stage above did not learn: a credit also ends the wait
    assert stage.version == 1 and stage.accepts_activation


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
        (sent,) = _downward(stage.handle(activation(step, reach=reach)), stage)
        assert sent.value is None
        assert stage.accepts_activation, "what is not learned from has no gradient to wait for"
        assert stage.handle(_gradient(step)) == []
    assert equal(before, weights(stage.module)) and stage.version == 0
    assert all(parameter.grad is None for parameter in stage.module.parameters())
    own = ["F0", "D0", "F1", "D1"] if stage.source.learns_from is Need.NONE else ["F0", "D0", "L0", "F1", "D1", "L1"]
    assert operations(stage) == own, "its source still learns from what the stage above made of the step"


def test_update_draws_depend_on_seed_stage_and_step_only() -> None:
    def drawn(index: int, seed: int, steps: list[int]) -> set[int]:
        stage = make_stage(index=index, num_stages=4, source=Constant(1.0), update_probability=0.5, seed=seed)
        for step in steps:
            stage.handle(activation(step))
            stage.handle(_gradient(step, None))
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
        (sent,) = _downward(stage.handle(activation(step)), stage)
        assert sent.value is None
        assert stage.handle(_gradient(step)) == []
    assert not backwards and equal(before, weights(module))
    assert all(parameter.grad is None for parameter in module.parameters())
    assert operations(stage) == ["F0", "D0", "F1", "D1", "F2", "D2"]
    stage.handle(activation(3, reach=3))
    stage.handle(_gradient(3))
    assert backwards and not equal(before, weights(module))
    assert operations(stage) == ["F3", "S3", "B3", "U3"]


def test_sync_step_that_comes_back_as_a_credit_is_passed_on_as_one() -> None:
    stage = make_stage(source=SyntheticGradient(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    before = weights(stage.module)
    stage.handle(activation(0, reach=3))
    (sent,) = _downward(stage.handle(_gradient(0, None)), stage)
    assert sent.value is None and not sent.exact
    assert equal(before, weights(stage.module))
    assert operations(stage) == ["F0", "S0", "D0"]


def test_source_learns_from_the_gradient_that_arrives_and_the_stage_does_not_learn_twice() -> None:
    stage = make_stage(source=SyntheticGradient(optimizer=lambda p: torch.optim.SGD(p, lr=0.05)))
    stage.handle(activation(0))
    after = weights(stage.module)
    losses = []
    for step in range(3):
        stage.handle(_gradient(step, 1.0))
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
    stage = make_stage(source=Constant(1.0), max_in_flight=4)
    for step in range(3):
        stage.handle(activation(step))
    for step in range(3):
        stage.handle(_gradient(step))
    measured = [(step, value) for name, step, value in stage.recorder.take_values() if name == "staleness"]
    assert measured == [(0, 3), (1, 2), (2, 1)]


@pytest.mark.parametrize("reach", [0, 2])
def test_stage_whose_output_depends_on_no_parameter_learns_nothing_and_does_not_fail(reach: int) -> None:
    frozen = linear().requires_grad_(False)
    for module in (nn.Flatten(), frozen):
        stage = make_stage(module, index=0, num_stages=2, source=Constant(1.0))
        before = weights(stage.module)
        sends = stage.handle(activation(0, reach=reach)) + stage.handle(_gradient(0))
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
    (sent,) = _upward(sends, stage)
    assert isinstance(sent.h, tuple)
    assert torch.equal(sent.h[1], indices + 1) and sent.h[1].dtype == torch.int64
    before = weights(stage.module)
    answer = Gradient(step=0, value=(torch.ones(4, WIDTH), None, torch.ones(4, 1)))
    sends = stage.handle(answer)
    (down,) = _downward(sends, stage)
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
    (sent,) = _downward(stage.handle(_gradient(0, 1.0)), stage)
    assert isinstance(sent.value, tuple) and sent.value[0] is not None and sent.value[1] is not None
    assert torch.equal(sent.value[0], torch.full((4, WIDTH), 2.0))
    assert torch.equal(sent.value[1], torch.zeros(4, WIDTH))


# Drains and the end


def test_drain_is_passed_on_and_carried_out_when_everything_is_answered() -> None:
    stage = make_stage(source=Constant(1.0), max_in_flight=4)
    stage.handle(activation(0))
    stage.handle(activation(1))
    drain = Drain(step=2, save=True)
    assert stage.handle(drain) == [Send(2, drain)]
    assert not stage.accepts_activation and stage.drained is None
    stage.handle(_gradient(0))
    assert stage.drained is None
    stage.handle(_gradient(1))
    assert stage.drained is drain and not stage.accepts_activation
    stage.resume()
    assert stage.accepts_activation and stage.drained is None


def test_drain_that_finishes_applies_the_leftovers_divided_by_the_samples_they_hold() -> None:
    whole, short = make_stage(index=2, cadence=4), make_stage(index=2, cadence=2)
    for stage in (whole, short):
        stage.handle(activation(0))
        stage.handle(activation(1))
    assert whole.version == 0
    whole.handle(Drain(step=2, save=True, finish=True))
    assert whole.drained is not None
    saved = whole.state_dict()["updater"]
    assert saved["num_samples"] == 8, "what is saved still holds the accumulated gradient"
    whole.resume()
    assert whole.version == 1 and equal(weights(whole.module), weights(short.module))


def test_drain_in_the_middle_keeps_the_partial_window() -> None:
    stage = make_stage(index=2, cadence=4)
    stage.handle(activation(0))
    stage.handle(Drain(step=1))
    stage.resume()
    assert stage.version == 0 and stage.updater.num_samples == 4


def test_stop_is_passed_on_and_finishes_the_stage_once_nothing_is_in_flight() -> None:
    stage = make_stage(source=Constant(1.0), max_in_flight=4)
    stage.handle(activation(0))
    assert stage.handle(Stop(step=1)) == [Send(2, Stop(step=1))]
    assert not stage.finished and not stage.accepts_activation
    stage.handle(_gradient(0))
    assert stage.finished


def test_last_stage_passes_neither_drain_nor_stop_on() -> None:
    stage = make_stage(index=2)
    assert stage.handle(Drain(step=0)) == []
    stage.resume()
    assert stage.handle(Stop(step=0)) == []
    assert stage.finished


# Evaluation


@pytest.mark.parametrize("index", [0, 1, 2])
def test_evaluation_leaves_statistics_parameters_and_gradients_untouched(index: int) -> None:
    module = nn.Sequential(linear(), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
    stage = make_stage(module, index=index, source=Constant(1.0) if index < 2 else None, max_in_flight=4)
    stage.handle(activation(0))
    if index < 2:
        stage.handle(_gradient(0))
    before, version, forwarded = weights(module), stage.version, stage.recorder.totals.num_samples
    sends = stage.handle(activation(0, training=False))
    expected = copy.deepcopy(module).eval()(features(0))
    assert [s.message.value for s in sends if isinstance(s.message, Gradient)] == ([] if index == 0 else [None])
    if index < 2:
        (sent,) = _upward(sends, stage)
        assert not sent.training and torch.equal(sent.h, expected)
        stage.handle(_gradient(0, None))
    assert equal(before, weights(module)) and stage.version == version
    assert all(parameter.grad is None for parameter in module.parameters())
    assert stage.recorder.totals.num_samples == forwarded
    stage.handle(activation(1))
    assert not equal(before, weights(module)) and module.training, "training goes on as before"


def test_batchnorm_sees_one_forward_per_training_message() -> None:
    norm = nn.BatchNorm1d(WIDTH)
    stage = make_stage(norm, source=SyntheticGradient(), max_in_flight=8, measure_every=1)
    for step in range(4):
        stage.handle(activation(step, reach=3 * (step % 2)))
        stage.handle(_gradient(step))
    assert int(norm.num_batches_tracked) == 4


def test_last_stage_reports_loss_and_accuracy_of_an_evaluation_when_it_resumes() -> None:
    module = linear()
    stage = make_stage(module, index=2)
    for number, num_samples in enumerate((4, 2)):
        stage.handle(activation(number, num_samples=num_samples, training=False))
    stage.handle(Drain(step=30))
    stage.resume()
    values = {name: (step, value) for name, step, value in stage.recorder.take_values()}
    h = torch.cat([module(features(0)), module(features(1, num_samples=2))])
    target = torch.cat([labels(0), labels(1, num_samples=2)])
    assert values["test_loss"] == (30, pytest.approx(nn.functional.cross_entropy(h, target).item()))
    assert values["test_accuracy"] == (30, pytest.approx((h.argmax(1) == target).float().mean().item()))
    stage.handle(Drain(step=31))
    stage.resume()
    assert not stage.recorder.take_values(), "an evaluation is reported once"


# Failures


def test_loss_that_is_not_finite_names_stage_step_and_phase() -> None:
    def loss(h: Tensor, target: Tensor) -> Tensor:
        total = nn.functional.cross_entropy(h, target, reduction="sum")
        return total * math.nan if len(h) == 3 else total

    stage = make_stage(index=2, source=LossGradient(loss))
    stage.handle(activation(0))
    before = weights(stage.module)
    with pytest.raises(
        StageFailure, match=r"stage 2 failed at step 5 in backward: NotFinite: the loss is nan"
    ) as caught:
        stage.handle(activation(5, num_samples=3))
    assert isinstance(caught.value.__cause__, NotFinite)
    assert (caught.value.stage, caught.value.step, caught.value.phase) == (2, 5, "backward")
    assert equal(before, weights(stage.module))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradient_that_is_not_finite_names_stage_step_and_phase(value: float) -> None:
    stage = make_stage()
    stage.handle(activation(7))
    before = weights(stage.module)
    gradient = torch.ones(4, WIDTH)
    gradient[2, 1] = value
    with pytest.raises(StageFailure, match="gradient at the output of stage 1") as caught:
        stage.handle(Gradient(step=7, value=gradient))
    assert isinstance(caught.value.__cause__, NotFinite)
    assert (caught.value.stage, caught.value.step, caught.value.phase) == (1, 7, "backward")
    assert equal(before, weights(stage.module))


def test_large_but_finite_gradient_is_not_refused() -> None:
    stage = make_stage(nn.Identity())
    stage.handle(activation(0))
    sends = stage.handle(Gradient(step=0, value=torch.full((4, WIDTH), 3e38)))  # its sum overflows
    assert len(sends) == 1


def test_source_loss_that_is_not_finite_stops_the_stage() -> None:
    stage = make_stage(source=SyntheticGradient())
    stage.handle(activation(0))
    with pytest.raises(StageFailure, match="in source learning: NotFinite") as caught:
        stage.handle(_gradient(0, math.nan))
    assert isinstance(caught.value.__cause__, NotFinite)


def test_parameters_are_scanned_every_check_every_steps() -> None:
    def breaking(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=math.inf)

    stage = make_stage(source=Constant(1.0), optimizer=breaking, check_every=2, max_in_flight=4)
    stage.handle(activation(0))
    assert not torch.isfinite(stage.module.weight).all(), "step 0 is not a step of the scan"
    with pytest.raises(StageFailure, match=r"stage 1 failed at step 1 in .*parameter 1\.\w+ holds NaN"):
        stage.handle(activation(1))
    unchecked = make_stage(source=Constant(1.0), optimizer=breaking, check_every=0)
    unchecked.handle(activation(1))
    unchecked.handle(_gradient(1, None))
    unchecked.handle(Drain(step=2, save=True))
    with pytest.raises(StageFailure, match=r"stage 1 failed at step 2 in checkpoint: .* 1\.\w+ holds NaN"):
        unchecked.state_dict()


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such luck")


@pytest.mark.parametrize(("training", "phase"), [(True, "forward"), (False, "evaluation")])
def test_stage_that_raises_names_stage_step_and_phase_and_chains_the_cause(training: bool, phase: str) -> None:
    stage = make_stage(Raising())
    with pytest.raises(
        StageFailure, match=f"stage 1 failed at step 3 in {phase}: RuntimeError: no such luck"
    ) as caught:
        stage.handle(activation(3, training=training))
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.phase == phase


# Keyed draws


def _dropped(stage: Stage, step: int) -> Tensor:
    (sent,) = _upward(stage.handle(activation(step)), stage)
    stage.handle(_gradient(step, None))
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
    assert with_it[2] - without[2] == {"parameter_cosine", "parameter_norm_ratio"}
    assert {"gradient_cosine", "gradient_norm_ratio", "source_loss", "staleness"} <= without[2]


def test_parameter_gradients_are_compared_once_in_measure_every_sync_steps() -> None:
    stage = make_stage(source=SyntheticGradient(), sync=Every(1), index=0, num_stages=2, measure_every=3)
    for step in range(7):
        stage.handle(activation(step))
        stage.handle(_gradient(step))
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


# State


def _steps(stage: Stage, source_steps: range) -> None:
    for step in source_steps:
        stage.handle(activation(step, reach=3 * (step % 4 == 3)))
        stage.handle(Gradient(step=step, value=features(step + 50)))


@pytest.mark.parametrize("source", SOURCES)
def test_stage_goes_on_from_its_state_bit_for_bit(source: str) -> None:
    def made() -> Stage:
        module = nn.Sequential(linear(), nn.BatchNorm1d(WIDTH), nn.Dropout(0.2))
        given: GradientSource = SOURCES[source]()
        return make_stage(
            module,
            source=given,
            cadence=3,
            optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
            max_in_flight=4,
        )

    undisturbed, first, second = made(), made(), made()
    _steps(undisturbed, range(11))
    _steps(first, range(4))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _steps(second, range(4, 11))
    assert equal(weights(undisturbed.module), weights(second.module))
    assert undisturbed.version == second.version
    values = [stage.recorder.take_values()[-3:] for stage in (undisturbed, second)]
    assert values[0] == values[1]


def test_state_uses_global_names() -> None:
    stage = make_stage(index=2)
    stage.handle(activation(0))
    assert set(stage.state_dict()["module"]) == {"2.weight", "2.bias"}
    assert set(stage.named_tensors()) == {"2.weight", "2.bias"}


def test_state_is_not_taken_while_something_is_in_flight() -> None:
    stage = make_stage()
    stage.handle(activation(0))
    with pytest.raises(AssertionError, match="drained"):
        stage.state_dict()
