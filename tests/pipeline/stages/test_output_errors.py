"""Does what the loss says come to the stages that ask for it, in order, and do they learn from it as they should?

Letters: N samples, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Critic,
    DirectFeedbackAlignment,
    GradientSource,
    Kickback,
    MixedGradient,
    SobolevCritic,
    SyntheticGradient,
    TrueGradient,
)
from pipeline import Config, Data, KeyedBatches, prepare, run_simulated, run_threaded
from pipeline.configuration.prepared import Prepared
from pipeline.executors.executor import Execute
from pipeline.messages import Activation, Drain, Message, OutputError, Send
from pipeline.stages.arrival import Inbox
from pipeline.stages.output_errors import Listener, OutputErrors
from pipeline.stages.stage import Stage
from pipeline.stages.stash import StashPolicy
from tests.pipeline.chain import (
    WIDTH,
    activation,
    downward,
    equal,
    features,
    gradient,
    labels,
    linear,
    make_stage,
    operations,
    weights,
)

BOTH = (Listener(stage=0, parts=frozenset({"error"})), Listener(stage=2, parts=frozenset({"error", "loss"})))


def _error(step: int, *, num_samples: int = 4) -> OutputError:
    drawn = torch.Generator().manual_seed(50 + step)
    return OutputError(
        step=step,
        value=torch.randn(num_samples, WIDTH, generator=drawn),
        loss_per_sample=torch.rand(num_samples, generator=drawn),
    )


def _dfa() -> DirectFeedbackAlignment:
    return DirectFeedbackAlignment(WIDTH)


# The last stage


def test_each_listener_is_sent_what_it_asks_for_and_nothing_else() -> None:
    errors, message = OutputErrors(BOTH), _error(0)
    errors.expect(0)
    first, second = errors.tell(message)
    assert first == Send(0, OutputError(step=0, value=message.value))
    assert second == Send(2, message)
    assert errors.parts == {"error", "loss"}


def test_what_is_known_early_is_told_in_the_order_of_steps() -> None:
    errors = OutputErrors(BOTH[:1])
    for step in (0, 1, 3):  # 2 was dropped
        errors.expect(step)
    assert list(errors.tell(OutputError(step=1))) == [], "step 0 has not been pulled back yet"
    assert [send.message.step for send in errors.tell(_error(0))] == [0, 1]
    assert [send.message.step for send in errors.tell(_error(3))] == [3]


def test_without_listeners_nothing_is_kept_or_said() -> None:
    errors = OutputErrors()
    errors.expect(0)
    assert list(errors.tell(_error(0))) == [] and errors.parts == set()


def test_last_stage_tells_before_it_pulls_back_and_answers() -> None:
    stage = make_stage(index=2, listeners=BOTH)
    told = []
    for send in stage.work(activation(0)):
        told.append((send.to, type(send.message).__name__, operations(stage)))
    assert told == [(0, "OutputError", ["F0"]), (2, "OutputError", []), (1, "Gradient", ["B0"])]


def test_last_stage_says_the_gradient_and_the_loss_of_each_sample() -> None:
    stage = make_stage(index=2, listeners=BOTH)
    before = weights(stage.module)
    (_, message) = [s.message for s in stage.handle(activation(0)) if isinstance(s.message, OutputError)]
    y = nn.functional.linear(features(0), before["weight"], before["bias"]).requires_grad_()
    loss = nn.functional.cross_entropy(y, labels(0), reduction="none")
    loss.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(message.value, y.grad)
    torch.testing.assert_close(message.loss_per_sample, loss.detach())


def test_last_stage_that_learns_nothing_from_a_step_says_so() -> None:
    stage = make_stage(index=2, listeners=BOTH, update_probability=0.0)
    told = [s.message for s in stage.handle(activation(0)) if isinstance(s.message, OutputError)]
    assert told == [OutputError(step=0), OutputError(step=0)]


def test_last_stage_that_defers_tells_when_it_pulls_back() -> None:
    stage = make_stage(index=2, listeners=BOTH[:1], defers=True, max_in_flight=2, cadence=2)
    held = [stage.handle(activation(step)) for step in (0, 1)]
    assert not any(isinstance(s.message, OutputError) for sends in held for s in sends)
    for step, ((own,), expected) in enumerate(zip(held, ("F0 F1 B0", "B1 U1"), strict=True)):
        told = [s.message.step for s in stage.handle(own.message) if isinstance(s.message, OutputError)]
        assert told == [step] and " ".join(operations(stage)) == expected


def test_evaluation_is_told_to_nobody() -> None:
    stage = make_stage(index=2, listeners=BOTH)
    assert not any(isinstance(s.message, OutputError) for s in stage.handle(activation(0, training=False)))


# A stage whose source waits for the error


@pytest.mark.parametrize("credit_first", [False, True])
def test_stage_pulls_back_when_the_error_comes_and_is_free_when_both_have(credit_first: bool) -> None:
    stage = make_stage(source=_dfa())
    stage.handle(activation(0))
    assert operations(stage) == ["F0"] and not stage.accepts_activation
    messages: list[Message] = [_error(0), gradient(0, None)]
    answers = []
    for message in reversed(messages) if credit_first else messages:
        assert stage.in_flight == 1
        answers += downward(stage.handle(message), stage)
    assert operations(stage) == ["B0", "U0"] and stage.accepts_activation
    (answer,) = answers
    assert answer.value is not None and not answer.exact


def test_gradient_that_is_pulled_back_is_the_sources() -> None:
    stage = make_stage(source=_dfa())
    before = weights(stage.module)
    stage.handle(activation(0))
    stage.handle(_error(0))
    (matrix,) = stage.learner.source.feedback  # type: ignore[attr-defined]
    used = _error(0).value @ matrix.detach()
    expected = before["weight"] - 0.1 * used.T @ features(0) / 4
    torch.testing.assert_close(weights(stage.module)["weight"], expected)


def test_step_of_which_the_last_stage_says_nothing_is_not_learned_from() -> None:
    stage = make_stage(source=_dfa())
    before = weights(stage.module)
    stage.handle(activation(0))
    (answer,) = downward(stage.handle(OutputError(step=0)), stage)
    stage.handle(gradient(0, None))
    assert answer.value is None and operations(stage) == ["F0", "D0"]
    assert equal(weights(stage.module), before) and stage.accepts_activation


def test_steps_that_are_passed_over_were_dropped_on_their_way() -> None:
    stage = make_stage(source=_dfa(), max_in_flight=3, cadence=3)
    for step in range(3):
        stage.handle(activation(step))
        stage.handle(gradient(step, None))
    assert stage.in_flight == 3
    answers = downward(stage.handle(_error(2)), stage)
    assert [(answer.step, answer.value is None) for answer in answers] == [(0, True), (1, True), (2, False)]
    assert stage.in_flight == 0 and operations(stage) == ["F0", "F1", "F2", "D0", "D1", "B2", "U2"]


def test_step_that_the_stage_above_dropped_is_not_waited_for() -> None:
    stage = make_stage(source=_dfa())
    stage.handle(activation(0))
    (answer,) = downward(stage.handle(gradient(0, None, dropped=True)), stage)
    assert answer.value is None and stage.in_flight == 0 and stage.recorder.totals.dropped_s > 0


def test_sync_takes_the_gradient_and_still_hears_of_the_error() -> None:
    stage = make_stage(source=_dfa(), max_in_flight=2)
    stage.handle(activation(0, reach=2))
    stage.handle(_error(0))
    assert operations(stage) == ["F0", "S0"] and not stage.accepts_activation, "a sync step is exact"
    (answer,) = downward(stage.handle(gradient(0, 0.5, exact=True)), stage)
    assert answer.exact and operations(stage) == ["B0", "U0"] and stage.in_flight == 0


@pytest.mark.parametrize("error_first", [False, True])
def test_source_that_needs_both_waits_for_both(error_first: bool) -> None:
    stage = make_stage(source=MixedGradient(_dfa(), 0.25))
    stage.handle(activation(0))
    messages: list[Message] = [gradient(0, 0.5), _error(0)]
    first, second = reversed(messages) if error_first else messages
    assert stage.handle(first) == [] and operations(stage) == ["F0"]
    (answer,) = downward(stage.handle(second), stage)
    assert answer.value is not None and operations(stage) == ["B0", "U0"]


@pytest.mark.parametrize("stash", ["hold", "recompute", "weights"])
def test_error_that_comes_late_is_used_and_recorded_as_a_late_gradient_is(stash: StashPolicy) -> None:
    stage = make_stage(source=_dfa(), max_in_flight=2, stash=stash, cadence=2 if stash == "hold" else 1)
    for step in range(2):
        stage.handle(activation(step))
    for step in range(2):
        stage.handle(_error(step))
    done = operations(stage)
    assert [o for o in done if o[0] in "BU"] == (["B0", "B1", "U1"] if stash == "hold" else ["B0", "U0", "B1", "U1"])
    staleness = [value for name, _, value in stage.recorder.take_values() if name == "staleness"]
    assert staleness == ([0, 0] if stash == "hold" else [0, 1])


def test_error_that_comes_too_late_is_not_used() -> None:
    stage = make_stage(source=_dfa(), max_in_flight=2, stash="weights", most_staleness=0)
    for step in range(2):
        stage.handle(activation(step))
    for step in range(2):
        stage.handle(_error(step))
    assert operations(stage) == ["F0", "F1", "B0", "U0", "D1"] and stage.recorder.totals.too_stale == 1


def test_drain_waits_for_errors() -> None:
    stage = make_stage(source=_dfa())
    stage.handle(activation(0))
    stage.handle(Drain(step=1))
    stage.handle(gradient(0, None))
    assert stage.drained is None
    stage.handle(_error(0))
    assert stage.drained == Drain(step=1)


# A stage whose source learns from the loss


def test_critic_acts_at_once_and_learns_when_the_loss_comes() -> None:
    stage = make_stage(source=Critic(WIDTH), max_in_flight=2)
    (answer,) = downward(stage.handle(activation(0)), stage)
    assert answer.value is not None and operations(stage) == ["F0", "B0", "U0"]
    stage.handle(gradient(0, 0.5))
    assert operations(stage) == [] and stage.in_flight == 1, "a gradient teaches a critic nothing"
    stage.handle(_error(0))
    assert operations(stage) == ["L0"] and stage.in_flight == 0
    assert ("staleness", 0, 1) in stage.recorder.take_values()


@pytest.mark.parametrize("error_first", [False, True])
def test_sobolev_critic_learns_once_when_loss_and_gradient_are_there(error_first: bool) -> None:
    stage = make_stage(source=SobolevCritic(WIDTH), max_in_flight=2)
    stage.handle(activation(0))
    operations(stage)
    messages: list[Message] = [gradient(0, 0.5), _error(0)]
    first, second = reversed(messages) if error_first else messages
    stage.handle(first)
    assert operations(stage) == []
    stage.handle(second)
    assert operations(stage) == ["L0"]


def test_sobolev_critic_does_not_learn_without_the_gradient() -> None:
    stage = make_stage(source=SobolevCritic(WIDTH), max_in_flight=2)
    stage.handle(activation(0))
    stage.handle(_error(0))
    stage.handle(gradient(0, None))
    assert "L0" not in operations(stage) and stage.in_flight == 0


# The order


def _waiting(stage: Stage, **queues: Message) -> str | None:
    inbox = Inbox("fixed")
    for name, message in queues.items():
        getattr(inbox, name).append((0.0, message))
    found = inbox.turn(stage)
    return next((name for name in ("below", "above", "errors") if found is getattr(inbox, name)), None)


def test_in_fixed_order_what_the_last_stage_says_of_a_step_comes_before_its_gradient() -> None:
    stage = make_stage(source=_dfa(), max_in_flight=1, cadence=9)
    assert _waiting(stage, below=activation(0), errors=_error(0)) == "below"
    stage.handle(activation(0))
    assert _waiting(stage, above=gradient(0)) is None, "the error is next, however long it takes"
    assert _waiting(stage, above=gradient(0), errors=_error(0)) == "errors"
    stage.handle(_error(0))
    assert _waiting(stage, above=gradient(0), errors=_error(1)) == "above"


def test_error_is_put_into_a_queue_of_its_own() -> None:
    inbox = Inbox("ready")
    inbox.put_above(_error(0))
    inbox.put_above(gradient(0))
    assert len(inbox.errors) == len(inbox.above) == 1
    stage = make_stage(source=_dfa())
    assert inbox.turn(stage) is inbox.above, "a last stage on synthetic inputs may be ahead of who is told"
    stage.handle(activation(0))
    assert inbox.turn(stage) is inbox.errors


# Whole runs


def test_listeners_are_the_stages_whose_sources_ask() -> None:
    sources = (TrueGradient(), Critic(WIDTH), MixedGradient(Kickback()), SobolevCritic(WIDTH), SyntheticGradient())
    prepared = _prepared(*sources)
    assert [(listener.stage, set(listener.parts)) for listener in prepared.listeners] == [
        (1, {"loss"}),
        (2, {"error"}),
        (3, {"loss"}),
    ]
    assert prepared.waits == [True, False, True, False, False]


def _prepared(*sources: GradientSource, **settings: Any) -> Prepared:
    x, target = features(0, num_samples=16), labels(0, num_samples=16)
    return prepare(
        Config(
            model=lambda: [linear(index) for index in range(len(sources) + 1)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=4)),
            loss=nn.CrossEntropyLoss(),
            source=sources,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            **{"steps": 8, **settings},
        )
    )


EXECUTORS: dict[str, Execute] = {"simulate": run_simulated, "threads": run_threaded}
RULES: dict[str, Callable[[Tensor, Tensor, Any], Tensor]] = {
    "direct feedback": lambda error, h, source: error @ source.feedback[0].detach(),
    "kickback": lambda error, h, source: error[:, torch.arange(h.shape[1]) % error.shape[1]],
}
SOURCES: dict[str, Callable[[], GradientSource]] = {"direct feedback": _dfa, "kickback": Kickback}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("rule", RULES)
def test_run_equals_a_network_written_out_by_hand(rule: str, executor: str) -> None:
    """Three layers of tanh and a linear one, no autograd, in float64."""
    x = features(0, num_samples=18, width=5).double()
    target = labels(0, num_samples=18)
    widths, steps, lr = (5, 7, 4, 6, WIDTH), 9, 0.2

    def model() -> list[nn.Module]:
        layers = [nn.Linear(a, b).double() for a, b in pairwise(widths)]
        return [*(nn.Sequential(layer, nn.Tanh()) for layer in layers[:-1]), nn.Sequential(layers[-1])]

    batches = KeyedBatches(x, target, batch_size=4)
    config = Config(
        model=model,
        data=lambda: Data(train=batches),
        loss=nn.CrossEntropyLoss(),
        source=SOURCES[rule](),
        optimizer=partial(torch.optim.SGD, lr=lr),
        steps=steps,
        delay=(3,),
    )
    prepared = prepare(config)
    layers = [module for stage in prepared.cut.stages for module in stage.modules() if isinstance(module, nn.Linear)]
    by_hand = [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in layers]
    EXECUTORS[executor](prepared)
    assert prepared.train is not None
    for _, (first, label) in zip(range(steps), prepared.train.start(0), strict=False):
        hs = [first]
        for weight, bias in by_hand[:-1]:
            hs.append(torch.tanh(hs[-1] @ weight.T + bias))
        weight, bias = by_hand[-1]
        error = torch.softmax(hs[-1] @ weight.T + bias, dim=1)
        error[torch.arange(len(error)), label] -= 1.0
        told = zip(hs[1:], prepared.sources, strict=False)
        deltas = [RULES[rule](error, h, source) * (1 - h * h) for h, source in told] + [error]
        for (weight, bias), delta, below in zip(by_hand, deltas, hs, strict=True):
            weight -= lr * delta.T @ below / len(error)
            bias -= lr * delta.sum(dim=0) / len(error)
    for layer, (weight, bias) in zip(layers, by_hand, strict=True):
        torch.testing.assert_close(layer.weight.detach(), weight, rtol=0, atol=1e-12)
        torch.testing.assert_close(layer.bias.detach(), bias, rtol=0, atol=1e-12)


def test_run_that_defers_in_fixed_order_does_not_wait_for_what_waits_for_it() -> None:
    """The last stage would hold four microbatches, and the first sends two before it is told of the error."""
    result = run_simulated(
        _prepared(_dfa(), SyntheticGradient(), delay=(2, 4), cadence=(4,), prefer="activations", arrival="fixed")
    )
    assert result.summary["status"] == "finished"
    assert [stage["backwards"] for stage in result.summary["stages"]] == [8, 8, 8]


def test_newest_activation_is_kept_so_that_whoever_waits_hears_of_those_before_it() -> None:
    inbox = Inbox("ready", room=1)
    assert inbox.put_below(activation(0, reach=3)) is None
    assert inbox.put_below(activation(1)) is None, "what is before it may not be dropped"
    dropped = inbox.put_below(activation(2))
    assert isinstance(dropped, Activation) and dropped.step == 1
