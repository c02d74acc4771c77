"""Is CKA its closed form on everything, and what minibatches say of it right on average?"""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor

from dni.measures.cka import LinearCKA, linear_cka, unbiased_hsic

D = torch.float64
CUT = (slice(0, 5), slice(5, 12))


def _closed_form(x: Tensor, y: Tensor) -> float:
    """Kornblith et al. 2019, by centring matrices: tr(KHMH) / sqrt(tr(KHKH) tr(MHMH))."""
    h = torch.eye(len(x), dtype=D) - 1 / len(x)
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return float((k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt())


def _hsic(x: Tensor, y: Tensor) -> float:
    """Nguyen et al. 2021, equation 3, as it is written."""
    n, one = len(x), torch.ones(len(x), dtype=D)
    k, m = ((rows @ rows.T).fill_diagonal_(0) for rows in (x, y))
    total = torch.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))


def _unbiased(x: Tensor, y: Tensor) -> float:
    return _hsic(x, y) / (_hsic(x, x) * _hsic(y, y)) ** 0.5


def _layers(num_samples: int = 12) -> tuple[Tensor, Tensor]:
    x = torch.randn(num_samples, 5, dtype=D)
    return x, torch.tanh(x @ torch.randn(5, 7, dtype=D)) + 0.5 * torch.randn(num_samples, 7, dtype=D)


def _rotation(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=D)).Q


@pytest.mark.parametrize("num_samples", [12, 4])
def test_linear_cka_is_its_closed_form_with_more_samples_than_features_and_with_fewer(num_samples: int) -> None:
    x, y = _layers(num_samples)
    assert linear_cka(x + 3, y) == pytest.approx(_closed_form(x, y), abs=1e-10)
    assert linear_cka(x, x) == pytest.approx(1.0) and linear_cka(x, torch.full_like(y, 0.1)) == 0.0


def test_one_minibatch_of_everything_is_the_unbiased_cka_of_everything() -> None:
    x, y = _layers()
    measure = LinearCKA()
    measure.update({"x": x.view(12, 5, 1), "y": y})
    found = measure.result()
    assert found.rows == found.columns == ("x", "y")
    assert found.of("x", "y") == found.of("y", "x") == pytest.approx(_unbiased(x, y), abs=1e-10)
    assert found.of("x", "x") == pytest.approx(1.0, abs=1e-12)
    grams = torch.stack([x @ x.T, y @ y.T])
    assert float(unbiased_hsic(grams, grams)[0, 1]) == pytest.approx(_hsic(x, y), abs=1e-12)


def test_hsic_of_minibatches_is_that_of_everything_on_average_over_all_minibatches() -> None:
    """Every one of the 70 minibatches of 4 of 8 samples; so the mean is exact, and so is CKA over all of them."""
    x, y = _layers(8)
    measure = LinearCKA()
    for chosen in combinations(range(8), 4):
        measure.update({"x": x[list(chosen)], "y": y[list(chosen)]})
    assert measure.result().of("x", "y") == pytest.approx(_unbiased(x, y), abs=1e-10)


def test_drawn_minibatches_agree_with_everything_where_the_biased_estimate_does_not() -> None:
    x, y = _layers(400)
    other, biased = torch.randn(400, 30, dtype=D), []
    measure = LinearCKA()
    for batch in torch.stack([torch.randperm(400) for _ in range(40)]).view(-1, 8):
        measure.update({"x": x[batch], "y": y[batch], "other": other[batch]})
        biased.append(linear_cka(x[batch], other[batch]))
    found = measure.result()
    assert found.of("x", "y") == pytest.approx(_unbiased(x, y), abs=0.02)
    assert found.of("x", "other") == pytest.approx(_unbiased(x, other), abs=0.02)
    assert abs(found.of("x", "other")) < 0.03 and sum(biased) / len(biased) > 0.5


def test_cka_sees_neither_rotation_nor_scale_nor_mean_but_a_linear_map() -> None:
    x, y = _layers()
    measure = LinearCKA()
    turned = -3.0 * x @ _rotation(5) + 1e5 * torch.randn(5, dtype=D)
    measure.update({"x": x, "y": y, "turned": turned, "bent": x * torch.tensor([1, 9, 1, 1, 1])})
    found = measure.result()
    assert found.of("x", "turned") == pytest.approx(1.0, abs=1e-9)
    assert found.of("turned", "y") == pytest.approx(found.of("x", "y"), abs=1e-9)
    assert found.of("x", "bent") < 0.9


def test_layers_of_two_runs_are_compared_each_with_each() -> None:
    x, y = _layers()
    measure = LinearCKA()
    for at in CUT:
        measure.update(
            {"a": x[at], "b": y[at]}, against={"c": y[at], "a": 2 * x[at], "dead": torch.ones(len(x[at]), 3)}
        )
    found = measure.result()
    assert found.rows == ("a", "b") and found.columns == ("c", "a", "dead")
    both = [sum(len(x[at]) * _hsic(p[at], q[at]) for at in CUT) for p, q in ((x, y), (x, x), (y, y))]
    assert found.of("a", "c") == pytest.approx(both[0] / (both[1] * both[2]) ** 0.5, abs=1e-10)
    assert found.of("a", "a") == pytest.approx(1.0) and found.values[:, 2].tolist() == [0.0, 0.0]


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    x, y = _layers()
    measure = LinearCKA()
    with pytest.raises(ValueError, match="LinearCKA must have seen at least one minibatch"):
        measure.result()
    with pytest.raises(ValueError, match="at least 4 samples in each minibatch, got 1"):
        measure.update({"x": x[:1]})
    with pytest.raises(ValueError, match="same samples, got 12 of x and 11 of y"):
        LinearCKA().update({"x": x, "y": y[1:]})
    with pytest.raises(ValueError, match="shown the same samples, got 12 of x and 11 of y"):
        LinearCKA().update({"x": x}, against={"y": y[1:]})
    with pytest.raises(ValueError, match="features of y must be finite, found 7 of 84"):
        LinearCKA().update({"x": x, "y": y / torch.arange(12)[:, None]})
    with pytest.raises(ValueError, match=r"features of y must be floating point \(N, F\)"):
        LinearCKA().update({"x": x, "y": torch.ones(12)})
    with pytest.raises(ValueError, match="at least one layer"):
        LinearCKA().update({})
    kept = LinearCKA()
    kept.update({"x": x, "y": y})
    with pytest.raises(ValueError, match="same layers at every update, x, y; missing y, new z"):
        kept.update({"x": x, "z": y})
    with pytest.raises(
        ValueError, match=r"compared against must be of the same layers at every update, none; .* new y"
    ):
        kept.update({"x": x, "y": y}, against={"y": y})
