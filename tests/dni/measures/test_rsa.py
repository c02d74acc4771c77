"""Are RSA and class contrast, minibatch by minibatch, those of the pairs that met?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dni.measures.representations import class_contrast, compare_dissimilarities, dissimilarity
from dni.measures.rsa import RSA, ClassContrast


def test_one_minibatch_of_everything_is_the_comparison_of_dissimilarities() -> None:
    x, y, z = torch.randn(9, 4, 2), torch.randn(9, 5), torch.ones(9, 3)
    measure = RSA()
    measure.update({"x": x, "z": z}, against={"x": x, "y": y})
    found = measure.result()
    assert found.of("x", "y") == pytest.approx(compare_dissimilarities(dissimilarity(x), dissimilarity(y)), abs=1e-12)
    assert found.of("x", "x") == pytest.approx(1.0) and found.values[1].tolist() == [0.0, 0.0]


def test_minibatches_are_the_correlation_over_pairs_within_them() -> None:
    layers = {"x": torch.randn(10, 4), "y": torch.randn(10, 6)}
    measure, again = RSA(), RSA()
    pairs: dict[str, list[float]] = {"x": [], "y": []}
    for at in (slice(0, 4), slice(4, 10)):
        for name, h in layers.items():
            matrix = dissimilarity(h[at])
            pairs[name] += [float(matrix[m, n]) for m in range(len(matrix)) for n in range(m)]
        measure.update({name: h[at] for name, h in layers.items()})
        again.load_state_dict(measure.state_dict())
    expected = np.corrcoef(pairs["x"], pairs["y"])
    np.testing.assert_allclose(measure.result().values.numpy(), expected, atol=1e-12)
    assert torch.equal(again.result().values, measure.result().values)
    with pytest.raises(ValueError, match="must have at least 2, got 1"):
        measure.update({name: h[:1] for name, h in layers.items()})


def test_class_contrast_is_that_of_the_pairs_that_met() -> None:
    h, target = torch.randn(8, 6), torch.tensor([0, 1, 0, 1, 1, 0, 2, 0])
    measure = ClassContrast()
    measure.update({"h": h}, target)
    assert measure.result()["h"] == pytest.approx(class_contrast(dissimilarity(h), target), abs=1e-12)
    split, same, other = ClassContrast(), [], []
    for at in (slice(0, 4), slice(4, 8)):
        split.update({"h": h[at]}, target[at])
        matrix, labels = dissimilarity(h[at]), target[at]
        for m in range(4):
            for n in range(m):
                (same if labels[m] == labels[n] else other).append(float(matrix[m, n]))
    again = ClassContrast()
    again.load_state_dict(split.state_dict())
    assert again.result()["h"] == pytest.approx(np.mean(other) - np.mean(same), abs=1e-12)
    with pytest.raises(ValueError, match=r"a label for each of 8 samples, \(8,\), got none"):
        measure.update({"h": h})
    alike = ClassContrast()
    alike.update({"h": h}, torch.zeros(8))
    with pytest.raises(ValueError, match="got 28 and 0 within minibatches"):
        alike.result()
