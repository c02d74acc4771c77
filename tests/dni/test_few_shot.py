"""Does a few-shot classifier take the K synthetic-gradient steps that it says, and learn through them?"""

from __future__ import annotations

import io
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import FewShotClassifier, LogitSynthesizer

TASKS, CLASSES, SHOTS, QUERIES, FEATURES = 3, 4, 2, 7, 6
RATE = 0.3


class TrueError(nn.Module):
    """An oracle in ξ's place: dL/dz of the queries' summed cross-entropy."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, logits: Tensor) -> Tensor:
        return F.softmax(logits, 2) - F.one_hot(self.answer, logits.shape[2])


def made_up(tasks: int = TASKS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support, its targets in a drawn order, queries, their answers."""
    target = torch.stack([torch.randperm(CLASSES * SHOTS) % CLASSES for _ in range(tasks)])
    support = torch.randn(tasks, CLASSES * SHOTS, FEATURES, dtype=torch.float64)
    query = torch.randn(tasks, QUERIES, FEATURES, dtype=torch.float64)
    return support, target, query, torch.randint(CLASSES, (tasks, QUERIES))


def trained(num_steps: int, synthesizer: nn.Module | None = None) -> FewShotClassifier:
    """A classifier in float64 all of whose parameters are away from where they start."""
    classifier = FewShotClassifier(FEATURES, CLASSES, num_steps=num_steps, rate=RATE, synthesizer=synthesizer).double()
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return classifier


def written_out(classifier: FewShotClassifier, support: Tensor, target: Tensor, query: Tensor) -> Tensor:
    """The logits of one task as the authors' code has them: BatchNorm in ξ, autograd for the steps."""
    synthesizer = cast(LogitSynthesizer, classifier.synthesizer)
    norms = []
    for norm in synthesizer.norms:
        batch_norm = nn.BatchNorm1d(CLASSES * 8).double()
        del batch_norm.weight, batch_norm.bias
        batch_norm.weight, batch_norm.bias = norm.weight, norm.bias
        norms.append(batch_norm)

    def logits(weights: Tensor) -> Tensor:
        unit = weights / weights.norm(dim=1, keepdim=True)
        cosine = (query / query.norm(dim=1, keepdim=True)) @ unit.T
        return classifier.logit_scale * (cosine + classifier.offset)

    unit = support / support.norm(dim=1, keepdim=True)
    means = [torch.stack([f for f, c in zip(unit, target, strict=True) if c == k]).mean(0) for k in range(CLASSES)]
    weights = torch.stack(means) * classifier.feature_scale
    for _ in range(classifier.num_steps):
        z = logits(weights)
        error = z
        for linear, norm in zip(synthesizer.hidden, norms, strict=True):
            error = norm(linear(error).relu())
        error = synthesizer.last(error)
        (gradient,) = torch.autograd.grad(z, weights, error, create_graph=True)
        weights = weights - RATE * gradient
    return logits(weights)


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_logits_and_every_gradient_are_those_of_the_steps_written_out(num_steps: int) -> None:
    classifier = trained(num_steps)
    support, target, query, answer = made_up()
    found = classifier(support, target, query)
    wanted = torch.stack([written_out(classifier, *task) for task in zip(support, target, query, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    parameters = [p for name, p in classifier.named_parameters() if num_steps or "synthesizer" not in name]
    pulled = [
        torch.autograd.grad(F.cross_entropy(z.flatten(0, 1), answer.flatten()), parameters) for z in (found, wanted)
    ]
    for ours, theirs in zip(*pulled, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    assert any(gradient.abs().max() > 1e-3 for gradient in pulled[0])


def test_gradients_through_the_steps_pass_finite_differences() -> None:
    classifier = trained(3)
    support, target, query, _ = made_up(tasks=1)
    names = ["feature_scale", "logit_scale", "offset", "synthesizer.last.weight", "synthesizer.norms.0.weight"]
    values = [dict(classifier.named_parameters())[name].detach().requires_grad_() for name in names]

    def logits(support: Tensor, query: Tensor, *values: Tensor) -> Tensor:
        replaced = dict(zip(names, values, strict=True))
        found: Tensor = torch.func.functional_call(classifier, replaced, (support, target, query))
        return found

    inputs = (support.requires_grad_(), query.requires_grad_(), *values)
    assert torch.autograd.gradcheck(logits, inputs, atol=1e-6, rtol=1e-4)


def test_without_steps_it_is_the_classifier_of_the_class_means_bit_for_bit() -> None:
    support, target, query, _ = made_up()
    classifier = trained(0)
    wanted = classifier.logits(classifier.initial_weights(support, target), query)
    assert torch.equal(classifier(support, target, query), wanted)


def test_a_new_synthesizer_leaves_the_classifier_as_it_is_and_yet_learns() -> None:
    support, target, query, answer = made_up()
    classifier = FewShotClassifier(FEATURES, CLASSES, num_steps=3, rate=RATE).double()
    found = classifier(support, target, query)
    assert torch.equal(found, classifier.logits(classifier.initial_weights(support, target), query))
    F.cross_entropy(found.flatten(0, 1), answer.flatten()).backward()
    last = cast(LogitSynthesizer, classifier.synthesizer).last
    assert last.weight.grad is not None and last.weight.grad.abs().max() > 1e-4


def test_with_the_true_error_the_steps_are_gradient_descent_on_the_queries_loss() -> None:
    support, target, query, answer = made_up()
    classifier = trained(4, TrueError(answer))
    weights = classifier.initial_weights(support, target)
    wanted = weights.detach()
    for _ in range(4):
        leaf = wanted.clone().requires_grad_()
        logits = classifier.logits(leaf, query)
        loss = F.cross_entropy(logits.flatten(0, 1), answer.flatten(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        wanted = wanted - RATE * gradient
    torch.testing.assert_close(classifier.adapt(weights, query), wanted, rtol=1e-10, atol=1e-12)


def test_learning_through_the_steps_beats_the_class_means_on_new_tasks() -> None:
    """Three tight clusters in eight dimensions, and one labelled sample of each, far from its cluster's middle."""
    classifier = FewShotClassifier(8, 3, num_steps=3, rate=1e-2)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=5e-3)

    def tasks(number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        middles = F.normalize(torch.randn(number, 3, 8), dim=2)
        target, answer = torch.arange(3).expand(number, 3), torch.randint(3, (number, 30))
        support = middles + 0.5 * torch.randn(number, 3, 8)
        query = middles.gather(1, answer[:, :, None].expand(-1, -1, 8)) + 0.2 * torch.randn(number, 30, 8)
        return support, target, query, answer

    for _ in range(150):
        support, target, query, answer = tasks(16)
        optimizer.zero_grad()
        F.cross_entropy(classifier(support, target, query).flatten(0, 1), answer.flatten()).backward()
        optimizer.step()
    support, target, query, answer = tasks(500)
    with torch.no_grad():
        means = classifier.logits(classifier.initial_weights(support, target), query)
        adapted = classifier(support, target, query)
    before, after = ((logits.argmax(2) == answer).float().mean().item() for logits in (means, adapted))
    assert after > before + 0.05


def test_tasks_of_a_batch_do_not_touch_one_another() -> None:
    support, target, query, _ = made_up()
    classifier = trained(3)
    alone = torch.cat([classifier(support[i : i + 1], target[i : i + 1], query[i : i + 1]) for i in range(TASKS)])
    torch.testing.assert_close(classifier(support, target, query), alone, rtol=1e-12, atol=1e-12)


def test_adapting_learns_from_nothing_but_the_queries_inputs_and_leaves_no_trace() -> None:
    support, target, query, _ = made_up()
    classifier = trained(3)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with torch.no_grad():
        first, second = classifier(support, target, query), classifier(support, target, query)
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_a_saved_classifier_loads_into_another_and_gives_the_same_bits() -> None:
    support, target, query, _ = made_up()
    classifier, other = trained(3), trained(3)
    stream = io.BytesIO()
    torch.save(classifier.state_dict(), stream)
    stream.seek(0)
    assert not torch.equal(classifier(support, target, query), other(support, target, query))
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(classifier(support, target, query), other(support, target, query))


def test_weights_of_ones_own_are_adapted_where_there_is_no_support() -> None:
    _, _, query, answer = made_up()
    classifier = trained(3)
    weights = torch.randn(1, CLASSES, FEATURES, dtype=torch.float64, requires_grad=True)
    logits = classifier.logits(classifier.adapt(weights.expand(TASKS, -1, -1), query), query)
    F.cross_entropy(logits.flatten(0, 1), answer.flatten()).backward()
    assert logits.shape == (TASKS, QUERIES, CLASSES) and weights.grad is not None


def test_a_class_without_support_or_out_of_range_is_named() -> None:
    support, target, query, _ = made_up()
    classifier = trained(1)
    target[1][target[1] == 2] = 3
    with pytest.raises(ValueError, match=r"every one of the 4 classes, found none of class 2 in task 1\."):
        classifier(support, target, query)
    target[0, 0] = 4
    with pytest.raises(ValueError, match=r"must lie in \[0, 4\), got 0 to 4\. Number the classes"):
        classifier(support, target, query)


def test_a_single_query_and_impossible_settings_are_refused() -> None:
    support, target, query, _ = made_up()
    with pytest.raises(ValueError, match=r"needs at least 2, got logits of shape \(3, 1, 4\)"):
        trained(1)(support, target, query[:, :1])
    assert trained(0)(support, target, query[:, :1]).shape == (TASKS, 1, CLASSES)
    with pytest.raises(ValueError, match="got 1 and 3"):
        FewShotClassifier(FEATURES, 1)
    with pytest.raises(ValueError, match="got 5 and -1"):
        FewShotClassifier(FEATURES, 5, num_steps=-1)
