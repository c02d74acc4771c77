"""Do the measures of representations equal their definitions, written out sample by sample?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from dni.measures.representations import (
    class_contrast,
    compare_dissimilarities,
    dissimilarity,
    fit_linear_probe,
    linear_probe_accuracy,
)


def test_dissimilarity_is_one_minus_the_correlation_of_each_two_samples() -> None:
    h = torch.randn(7, 3, 4)
    expected = 1 - np.corrcoef(h.flatten(1).double().numpy())
    np.testing.assert_allclose(dissimilarity(h).numpy(), expected, atol=1e-12)


def test_dissimilarity_sees_neither_scale_nor_shift_of_a_sample_and_is_one_for_a_constant_one() -> None:
    h = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(dissimilarity(h), dissimilarity(3 * h + torch.randn(5, 1, dtype=torch.float64)))
    h[2] = 4.0
    matrix = dissimilarity(h)
    assert matrix[2].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0]


def test_comparison_of_dissimilarities_is_the_correlation_over_pairs() -> None:
    first, second = dissimilarity(torch.randn(6, 9)), dissimilarity(torch.randn(6, 4))
    pairs = [(m, n) for m in range(6) for n in range(m)]
    a, b = ([float(matrix[pair]) for pair in pairs] for matrix in (first, second))
    assert compare_dissimilarities(first, second) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert compare_dissimilarities(first, first) == pytest.approx(1.0)
    assert compare_dissimilarities(first, torch.ones(6, 6)) == 0.0
    with pytest.raises(ValueError, match=r"of the same samples, got \(6, 6\) and \(5, 5\)"):
        compare_dissimilarities(first, torch.ones(5, 5))


def test_class_contrast_is_the_difference_of_two_means_over_pairs() -> None:
    target = torch.tensor([0, 0, 1, 1, 2, 0])
    matrix = dissimilarity(torch.randn(6, 9))
    pairs = [(m, n) for m in range(6) for n in range(6) if m != n]
    within = [float(matrix[m, n]) for m, n in pairs if target[m] == target[n]]
    between = [float(matrix[m, n]) for m, n in pairs if target[m] != target[n]]
    assert class_contrast(matrix, target) == pytest.approx(np.mean(between) - np.mean(within))
    with pytest.raises(ValueError, match="got 30 and 0 among 6 samples"):
        class_contrast(matrix, torch.zeros(6))


def test_a_probe_is_the_ridge_regression_of_one_hot_labels(digits: tuple[Tensor, Tensor]) -> None:
    pixels, labels = digits
    h = pixels @ torch.randn(64, 20)
    probe = fit_linear_probe(h[:1000], labels[:1000], num_classes=10, ridge=0.01)
    x = h[:1000].double().numpy()
    twin = Ridge(alpha=0.01 * x.var(0).mean() * 1000).fit(x, np.eye(10)[labels[:1000].numpy()])
    np.testing.assert_allclose(probe[:-1].numpy(), twin.coef_.T, atol=1e-9)
    np.testing.assert_allclose(probe[-1].numpy(), twin.intercept_, atol=1e-9)
    said = twin.predict(h[1000:].double().numpy()).argmax(1)
    accuracy = linear_probe_accuracy(probe, h[1000:], labels[1000:])
    assert accuracy == pytest.approx((said == labels[1000:].numpy()).mean()) and accuracy > 0.5


def test_a_probe_does_not_see_the_scale_of_a_layer_and_survives_a_dead_one(digits: tuple[Tensor, Tensor]) -> None:
    pixels, labels = digits
    accuracies = []
    for scale in (1.0, 1e-4):
        probe = fit_linear_probe(scale * pixels[:1000], labels[:1000], num_classes=10)
        accuracies.append(linear_probe_accuracy(probe, scale * pixels[1000:], labels[1000:]))
    assert accuracies[0] == pytest.approx(accuracies[1]) and accuracies[0] > 0.85
    dead = torch.zeros(50, 8)
    probe = fit_linear_probe(dead, labels[:50], num_classes=10)
    assert 0 <= linear_probe_accuracy(probe, dead, labels[:50]) < 0.3
