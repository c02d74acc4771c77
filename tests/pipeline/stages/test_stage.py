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
    GradientSource,
    LocalLoss,
    LossGradient,
    NoGradient,
    Shadow,
    Signal,
    SyntheticGradient,
    TrueGradient,
)
from pipeline.clock import VirtualClock
from pipeline.errors import NotFinite, StageFailure
from pipeline.messages import Drain, Gradient, Send, Stop
from pipeline.randomness.keyed import generator
from pipeline.stages.stage import Stage
from tests.pipeline.chain import (
    SOURCES,
    WIDTH,
    Constant,
    Shrunk,
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
        sends += stage.handle(gradient(step, answer if training else None))
        answered += [gradient.step for gradient in downward(sends, stage)]
        sent_on += [message.step for message in upward(sends, stage)]
        assert len(sends) == 2
    assert answered == sent_on == list(range(6))
    assert stage.in_flight == 0


@pytest.mark.parametrize("source", SOURCES)
def test_first_stage_sends_nothing_down_and_last_stage_nothing_up(source: str) -> None:
    first = make_stage(index=0, source=SOURCES[source]())
    sends = first.handle(activation(0)) + first.handle(gradient(0))
    assert [send.to for send in sends] == [1]
    last = make_stage(index=2)
    assert [send.to for send in last.handle(activation(0))] == [1]
    assert last.in_flight == 0


def test_activation_carries_target_reach_version_and_output() -> None:
    stage = make_stage(source=Constant(0.0))
    stage.load_state_dict(stage.state_dict() | {"version": 7})
    message = activation(3, reach=1)
    (sent,) = upward(stage.handle(message), stage)
    assert (sent.step, sent.reach, sent.version, sent.training) == (3, 1, 7, True)
    assert sent.target is message.target
    assert isinstance(sent.h, Tensor) and not sent.h.requires_grad
    torch.testing.assert_close(sent.h, linear()(message.h), rtol=0, atol=0)


def test_gradient_sent_down_is_the_estimate_pulled_back_through_the_stage() -> None:
    stage = make_stage(source=Constant(2.0))
    weight = weights(stage.module)["weight"]
    (sent,) = downward(stage.handle(activation(0)), stage)
    torch.testing.assert_close(sent.value, torch.full((4, WIDTH), 2.0) @ weight)
    assert not sent.exact


def test_gradient_from_above_is_pulled_back_and_stays_as_exact_as_it_came() -> None:
    for exact in (True, False):
        stage = make_stage()
        weight = weights(stage.module)["weight"]
        stage.handle(activation(0))
        (sent,) = downward(stage.handle(gradient(0, 3.0, exact=exact)), stage)
        torch.testing.assert_close(sent.value, torch.full((4, WIDTH), 3.0) @ weight)
        assert sent.exact is exact


def test_last_stage_sends_the_gradient_of_the_summed_loss() -> None:
    stage = make_stage(index=2)
    x = features(0).requires_grad_()
    nn.functional.cross_entropy(linear()(x), labels(0), reduction="sum").backward()
    (sent,) = downward(stage.handle(activation(0)), stage)
    torch.testing.assert_close(sent.value, x.grad, rtol=0, atol=0)
    assert sent.exact


def test_first_stage_decides_the_reach_from_a_draw_keyed_by_the_step() -> None:
    decided = []
    for order in ((0, 1, 2, 3, 4, 5), (5, 3, 1, 0, 2, 4)):
        stage = make_stage(index=0, source=NoGradient(), sync=Bernoulli(0.5), seed=4)
        by_step = {}
        for step in order:
            by_step[step] = upward(stage.handle(activation(step, reach=99)), stage)[0].reach
            stage.handle(gradient(step, None))
        decided.append(by_step)
    assert decided[0] == decided[1]
    assert set(decided[0].values()) == {0, 3}


def test_stage_below_that_makes_nothing_of_a_gradient_gets_one_at_syncs_only() -> None:
    for source in (Constant(1.0), SyntheticGradient(), TrueGradient()):
        stage = make_stage(source=source, below_wants=False, max_in_flight=4)
        sends = stage.handle(activation(0)) + stage.handle(gradient(0, exact=True))
        (sent,) = downward(sends, stage)
        assert sent.value is None and not sent.exact
        assert "B0" in operations(stage), "it learns itself as ever"
        sends = stage.handle(activation(1, reach=3)) + stage.handle(gradient(1, exact=True))
        (sent,) = downward(sends, stage)
        assert sent.value is not None and sent.exact


def test_reach_that_ends_at_a_stage_asks_it_for_nothing() -> None:
    stage = make_stage(below_wants=False)
    sends = stage.handle(activation(0, reach=2)) + stage.handle(gradient(0))
    assert [sent.value for sent in downward(sends, stage)] == [None]
    last = make_stage(index=2, below_wants=False)
    assert downward(last.handle(activation(0, reach=1)), last)[0].value is None
    assert downward(last.handle(activation(1, reach=2)), last)[0].value is not None


def test_gradient_that_nobody_wants_is_not_computed() -> None:
    asked: list[bool] = []
    stages = [make_stage(source=Constant(1.0), below_wants=wants, max_in_flight=4) for wants in (False, True)]
    for stage in stages:
        stage.module.register_forward_pre_hook(lambda _, given: asked.append(given[0].requires_grad))
        stage.handle(activation(0))
    assert asked == [False, True]
    assert equal(*(weights(stage.module) for stage in stages))


# Sources that need nobody above


def test_local_source_learns_at_its_own_step_and_not_again_when_it_is_answered() -> None:
    stage = make_stage(source=LocalLoss(WIDTH), max_in_flight=4)
    stage.handle(activation(0))
    assert operations(stage) == ["F0", "B0", "L0", "U0"]
    for answer in (gradient(0, None), gradient(1)):
        assert stage.handle(answer) == []
        assert operations(stage) == []
        stage.handle(activation(answer.step + 1))
        assert operations(stage)[:3] == [f"{o}{answer.step + 1}" for o in "FBL"]


def test_local_source_learns_from_a_sync_step_once_its_stage_does() -> None:
    stage = make_stage(source=LocalLoss(WIDTH))
    stage.handle(activation(0, reach=3))
    assert operations(stage) == ["F0", "S0"]
    stage.handle(gradient(0))
    assert operations(stage) == ["B0", "L0", "U0"]
    stage.handle(activation(1, reach=3))
    stage.handle(gradient(1, None))
    assert operations(stage) == ["F1", "S1", "D1"], "a step that the stage does not learn from"


def test_local_source_beside_one_that_gives_nothing_learns_all_the_same() -> None:
    stage = make_stage(source=Shadow(LocalLoss(WIDTH), acting=NoGradient()), max_in_flight=4)
    stage.handle(activation(0))
    assert operations(stage) == ["F0", "D0", "L0"]


def test_gradient_of_a_local_source_is_taken_before_it_learns() -> None:
    stage, source = make_stage(nn.Identity(), source=LocalLoss(WIDTH)), LocalLoss(WIDTH)
    for step in range(3):
        message = activation(step)
        (sent,) = downward(stage.handle(message), stage)
        stage.handle(gradient(step, None))
        if step == 0:
            source.build(message.h, generator=generator(0, "source/1", 0))
        signal = Signal(step=step, target=message.target)
        expected = source.estimate(message.h, signal)
        assert isinstance(sent.value, Tensor) and isinstance(expected, Tensor)
        assert torch.equal(sent.value, expected)
        source.learn(message.h, signal)


@pytest.mark.parametrize(("source", "keeps"), [("local", False), ("none", False), ("synthetic", True)])
def test_output_is_kept_only_for_a_source_that_learns_from_what_comes_back(source: str, keeps: bool) -> None:
    stage = make_stage(source=SOURCES[source]())
    stage.handle(activation(0))
    assert isinstance(stage.stash.take(0).h, Tensor) is keeps


# What may be handled


def test_stage_takes_no_more_microbatches_than_its_bound() -> None:
    stage = make_stage(max_in_flight=3, source=SyntheticGradient())
    for step in range(3):
        assert stage.accepts_activation
        stage.handle(activation(step))
    assert stage.in_flight == 3 and not stage.accepts_activation
    stage.handle(gradient(0, None))
    assert stage.in_flight == 2 and stage.accepts_activation


@pytest.mark.parametrize("source", ["synthetic", "conditional", "none"])
def test_sync_step_blocks_later_activations_until_its_gradient(source: str) -> None:
    stage = make_stage(max_in_flight=8, source=SOURCES[source](), cadence=2)
    stage.handle(activation(0))
    assert stage.accepts_activation
    assert not downward(stage.handle(activation(1, reach=2)), stage)
    assert not stage.accepts_activation
    stage.handle(gradient(0))
    assert not stage.accepts_activation, "the gradient of an earlier step must not end the wait"
    before = weights(stage.module)
    (sent,) = downward(stage.handle(gradient(1)), stage)
    assert sent.value is not None and stage.accepts_activation
    assert not equal(before, weights(stage.module))
    stage.handle(activation(2, reach=2))
    assert not stage.accepts_activation, "a sync step is exact also where no update is due"


def test_stage_below_the_reach_uses_its_own_source() -> None:
    stage = make_stage(max_in_flight=8, source=Constant(1.0))
    (sent,) = downward(stage.handle(activation(0, reach=1)), stage)
    assert sent.value is not None and stage.accepts_activation


def test_due_update_waits_while_something_is_held() -> None:
    stage = make_stage(cadence=2, max_in_flight=4)
    before = weights(stage.module)
    stage.handle(activation(0))
    assert stage.accepts_activation
    stage.handle(activation(1))
    assert not stage.accepts_activation, "the next window is forwarded with the new weights"
    stage.handle(gradient(0))
    assert equal(before, weights(stage.module)) and stage.version == 0
    assert not stage.accepts_activation
    stage.handle(gradient(1))
    assert not equal(before, weights(stage.module)) and stage.version == 1
    assert stage.accepts_activation
    assert operations(stage) == ["F0", "F1", "B0", "B1", "U1"]


def test_due_update_waits_for_a_held_sync_step_of_the_same_window() -> None:
    stage = make_stage(cadence=2, source=Constant(1.0), max_in_flight=4)
    stage.handle(activation(0))
    stage.handle(activation(1, reach=3))
    assert stage.version == 0
    stage.handle(gradient(1, None))  # the stage above did not learn: a credit also ends the wait
    assert stage.version == 1 and stage.accepts_activation


# Drains and the end


def test_drain_is_passed_on_and_carried_out_when_everything_is_answered() -> None:
    stage = make_stage(source=Constant(1.0), max_in_flight=4)
    stage.handle(activation(0))
    stage.handle(activation(1))
    drain = Drain(step=2, save=True)
    assert stage.handle(drain) == [Send(2, drain)]
    assert not stage.accepts_activation and stage.drained is None
    stage.handle(gradient(0))
    assert stage.drained is None
    stage.handle(gradient(1))
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
    assert saved["pace"]["rest"]["num_samples"] == 8, "what is saved still holds the accumulated gradient"
    whole.resume()
    assert whole.version == 1 and equal(weights(whole.module), weights(short.module))


def test_drain_in_the_middle_keeps_the_partial_window() -> None:
    stage = make_stage(index=2, cadence=4)
    stage.handle(activation(0))
    stage.handle(Drain(step=1))
    stage.resume()
    assert stage.version == 0 and stage.learner.updater.num_samples == 4


def test_stop_is_passed_on_and_finishes_the_stage_once_nothing_is_in_flight() -> None:
    stage = make_stage(source=Constant(1.0), max_in_flight=4)
    stage.handle(activation(0))
    assert stage.handle(Stop(step=1)) == [Send(2, Stop(step=1))]
    assert not stage.finished and not stage.accepts_activation
    stage.handle(gradient(0))
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
        stage.handle(gradient(0))
    before, version, forwarded = weights(module), stage.version, stage.recorder.totals.num_samples
    sends = stage.handle(activation(0, training=False))
    expected = copy.deepcopy(module).eval()(features(0))
    assert [s.message.value for s in sends if isinstance(s.message, Gradient)] == ([] if index == 0 else [None])
    if index < 2:
        (sent,) = upward(sends, stage)
        assert not sent.training and torch.equal(sent.h, expected)
        stage.handle(gradient(0, None))
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
        stage.handle(gradient(step))
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
        stage.handle(gradient(0, math.nan))
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
    unchecked.handle(gradient(1, None))
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
            measure_every=2,
        )

    undisturbed, first, second = made(), made(), made()
    _steps(undisturbed, range(11))
    _steps(first, range(4))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _steps(second, range(4, 11))
    assert equal(weights(undisturbed.module), weights(second.module))
    assert undisturbed.version == second.version
    values = [[v for v in stage.recorder.take_values() if v[1] >= 4] for stage in (undisturbed, second)]
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


def test_source_that_needs_the_gradient_decides_what_is_made_of_it() -> None:
    stage, plain = make_stage(source=Shrunk(0.5)), make_stage()
    sent = []
    for each in (stage, plain):
        each.handle(activation(0))
        sent += downward(each.handle(gradient(0, 2.0, exact=True)), each)
    shrunk, true = sent
    torch.testing.assert_close(shrunk.value, true.value / 2, rtol=0, atol=0)
    assert true.exact and not shrunk.exact


def test_sync_step_uses_the_truth_even_if_the_source_would_make_something_else_of_it() -> None:
    stage, plain = make_stage(source=Shrunk(0.5)), make_stage()
    for each in (stage, plain):
        each.handle(activation(0, reach=3))
        each.handle(gradient(0, 2.0, exact=True))
    assert equal(weights(stage.module), weights(plain.module))


def test_source_that_makes_nothing_of_the_gradient_lets_the_step_go() -> None:
    stage = make_stage(source=Shrunk(None))
    before = weights(stage.module)
    stage.handle(activation(0))
    (sent,) = downward(stage.handle(gradient(0, 2.0)), stage)
    assert sent.value is None
    assert equal(before, weights(stage.module))


def test_dropped_activation_is_answered_and_the_work_below_counted_as_dropped() -> None:
    below = make_stage(index=1, source=SyntheticGradient(), clock=VirtualClock(lambda stage, operation: 1.0))
    top = make_stage(index=2)
    (sent,) = upward(below.handle(activation(0)), below)
    (answer,) = top.drop(sent)
    assert answer.to == 1
    assert answer.message == Gradient(step=0, value=None, dropped=True)
    assert below.handle(answer.message) == []
    assert below.recorder.totals.dropped_s == 1.0
    assert top.recorder.totals.dropped == 1 and operations(top) == ["D0"]


def test_held_step_that_is_dropped_above_is_let_go_and_answered_below() -> None:
    stage = make_stage()
    before = weights(stage.module)
    stage.handle(activation(0))
    (sent,) = downward(stage.handle(Gradient(step=0, value=None, dropped=True)), stage)
    assert sent.value is None and not sent.dropped
    assert equal(before, weights(stage.module))


def test_sends_leave_as_soon_as_they_may() -> None:
    stage = make_stage(source=SyntheticGradient())
    seen = [(send.to, list(operations(stage))) for send in stage.work(activation(0))]
    assert seen == [(2, ["F0"]), (0, ["B0"])]
    assert operations(stage) == ["U0"]


# Reports of how good the sources are


def test_answer_reports_the_worst_source_from_here_up() -> None:
    stage = make_stage(source=SyntheticGradient())
    reports = []
    for step, above in enumerate((None, 2.0, -2.0)):
        stage.handle(activation(step, reach=3))
        (answer,) = downward(stage.handle(gradient(step, quality=above)), stage)
        reports.append((answer.quality, stage.learner.quality))
    assert reports[0] == (None, None), "at the first step there is no synthesizer to compare yet"
    assert reports[1][0] == reports[1][1] is not None
    assert reports[2][0] == -2.0


def test_first_stage_decides_by_what_was_reported_of_earlier_steps_and_remembers_it() -> None:
    asked: list[float | None] = []

    class Asked:
        def reach(self, step: int, *, quality: float | None, **more: Any) -> int:
            asked.append(quality)
            return 0

    stage = make_stage(index=0, sync=Asked())
    for step, report in enumerate((0.5, None, -0.25)):
        stage.handle(activation(step))
        stage.handle(gradient(step, quality=report))
    resumed = make_stage(index=0, sync=Asked())
    resumed.load_state_dict(stage.state_dict())
    resumed.handle(activation(3))
    assert asked == [None, 0.5, None, -0.25]
