"""Is every loss brought to its sum over samples?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import sum_over_samples
from dni.sources.loss import split_over_samples

N, C = 12, 5


def _gradient(loss: Callable[[Tensor, Tensor], Tensor], h: Tensor, target: Tensor) -> Tensor:
    leaf = h.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf, target), leaf)[0]


def _classes() -> tuple[Tensor, Tensor]:
    return torch.randn(N, C), torch.randint(0, C, (N,))


def _plain_sum(h: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(h, target, reduction="sum")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_has_the_gradient_of_the_plain_sum_bit_for_bit(reduction: str) -> None:
    h, target = _classes()
    summed = sum_over_samples(nn.CrossEntropyLoss(reduction=reduction), h, target)
    torch.testing.assert_close(_gradient(summed, h, target), _gradient(_plain_sum, h, target), rtol=0, atol=0)


def test_cross_entropy_without_a_reduction_is_summed() -> None:
    h, target = _classes()
    summed = sum_over_samples(nn.CrossEntropyLoss(reduction="none"), h, target)
    torch.testing.assert_close(_gradient(summed, h, target), _gradient(_plain_sum, h, target), rtol=0, atol=0)


def test_the_reduction_found_on_one_batch_holds_for_a_shorter_one() -> None:
    summed = sum_over_samples(nn.CrossEntropyLoss(), *_classes())
    h, target = torch.randn(5, C), torch.randint(0, C, (5,))
    assert summed(h, target).item() == _plain_sum(h, target).item()


def test_a_mean_over_elements_becomes_samples_times_the_mean() -> None:
    h, target = torch.randn(N, C), torch.randn(N, C)
    summed = sum_over_samples(nn.MSELoss(), h, target)
    expected = _gradient(lambda h, target: N * F.mse_loss(h, target), h, target)
    torch.testing.assert_close(_gradient(summed, h, target), expected, rtol=1e-6, atol=0)
    assert summed(h, target).item() == pytest.approx(((h - target) ** 2).sum().item() / C, rel=1e-5)


def test_class_weights_keep_the_users_weighting_of_the_samples() -> None:
    h, target = _classes()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert sum_over_samples(loss, h, target)(h, target).item() == pytest.approx(N * loss(h, target).item())


def test_token_labels_are_averaged_over_tokens_and_summed_over_samples() -> None:
    h, target = torch.randn(N, C, 7), torch.randint(0, C, (N, 7))
    loss = nn.CrossEntropyLoss()
    assert sum_over_samples(loss, h, target)(h, target).item() == pytest.approx(N * loss(h, target).item())


def test_a_batch_mean_becomes_the_sum() -> None:
    """In 0.1, KLDivLoss(reduction="batchmean"), a mean over samples, was refused."""
    h, target = torch.randn(N, C).log_softmax(1), torch.randn(N, C).softmax(1)
    summed = sum_over_samples(nn.KLDivLoss(reduction="batchmean"), h, target)
    assert summed(h, target).item() == F.kl_div(h, target, reduction="sum").item()


def test_a_first_batch_of_zero_loss_does_not_turn_a_mean_over_elements_into_a_sum() -> None:
    """In 0.1, it did: 0 = N times 0 was read as a mean over samples."""
    zeros = torch.zeros(N, C)
    summed = sum_over_samples(nn.MSELoss(), zeros, zeros)
    assert summed(zeros + 1, zeros).item() == pytest.approx(N)


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        lambda h, target: F.cross_entropy(h, target, reduction="sum"),
        lambda h, target: F.cross_entropy(h, target, reduction="none"),
    ],
    ids=["mean", "sum", "none"],
)
def test_the_reduction_of_a_bare_function_is_found_by_doubling_the_batch(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    h, target = _classes()
    summed = sum_over_samples(loss, h, target)
    torch.testing.assert_close(_gradient(summed, h, target), _gradient(_plain_sum, h, target))


def test_a_loss_that_is_neither_sum_nor_mean_is_refused_with_its_two_values() -> None:
    h, target = _classes()
    with pytest.raises(ValueError, match=r"sum or a mean over the samples.*on the same batch twice over"):
        sum_over_samples(lambda h, target: F.cross_entropy(h, target, reduction="sum") ** 2, h, target)


def test_a_loss_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one value per sample \(12\), got shape \(5,\)"):
        sum_over_samples(lambda h, target: h.mean(0), *_classes())


def test_an_unknown_reduction_is_refused() -> None:
    loss = nn.CrossEntropyLoss()
    loss.reduction = "median"
    with pytest.raises(ValueError, match="got 'median'"):
        sum_over_samples(loss, *_classes())


PER_SAMPLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "values": nn.CrossEntropyLoss(reduction="none"),
    "function": F.cross_entropy,
    "function of the sum": _plain_sum,
}


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_loss_of_each_sample_is_that_of_the_unreduced_loss(name: str) -> None:
    h, target = _classes()
    split = split_over_samples(PER_SAMPLE[name], h, target)
    torch.testing.assert_close(split(h, target), F.cross_entropy(h, target, reduction="none"))
    assert split(h[:3], target[:3]).shape == (3,)


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(), nn.CrossEntropyLoss(weight=torch.rand(C) + 0.1), nn.HuberLoss(delta=0.3)],
    ids=["elements", "class weights", "huber"],
)
def test_losses_of_the_samples_add_up_to_the_summed_loss(loss: nn.Module) -> None:
    h, target = _classes()
    target = target if isinstance(loss, nn.CrossEntropyLoss) else torch.randn(N, C)
    values = split_over_samples(loss, h, target)(h, target)
    assert values.shape == (N,)
    torch.testing.assert_close(values.sum(), sum_over_samples(loss, h, target)(h, target))
