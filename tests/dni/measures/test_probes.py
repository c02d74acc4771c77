"""Are probes the regressions of the samples they may see, and tested on others?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from dni.measures.held_rows import ProbeShares
from dni.measures.logistic import fit_logistic_probe
from dni.measures.probes import LogisticProbes, RidgeProbes
from dni.measures.representations import linear_probe_accuracy

SHARES = ProbeShares(choose=0.25, test=0.25)


def _layers(digits: tuple[Tensor, Tensor], count: int = 600) -> tuple[dict[str, Tensor], Tensor]:
    pixels, labels = digits
    h = pixels[:count]
    return {"pixels": h, "narrow": h @ torch.randn(64, 12)}, labels[:count]


def test_parts_are_apart_and_have_their_share_of_every_stretch_however_it_is_cut() -> None:
    whole, pieces = SHARES.cut(0, 1000), [SHARES.cut(start, 50) for start in range(0, 1000, 50)]
    for part, at in whole.items():
        assert torch.equal(torch.cat([piece[part] + 50 * k for k, piece in enumerate(pieces)]), at)
        wanted = {"fit": 0.5}.get(part, 0.25)
        assert len(at) == pytest.approx(1000 * wanted, abs=3)
        in_turn = torch.bincount(at % 10, minlength=10)
        assert int(in_turn.min()) >= 100 * wanted - 4, "labels that come in turn are in every part"
    assert torch.equal(torch.cat(list(whole.values())).sort().values, torch.arange(1000))
    with pytest.raises(ValueError, match=r"leave some to fit on, got 0\.5 and 0\.5"):
        ProbeShares(choose=0.5, test=0.5)


def test_ridge_probe_is_the_regression_of_least_held_out_error(digits: tuple[Tensor, Tensor]) -> None:
    layers, labels = _layers(digits)
    ridges = (1e-6, 1e-2, 1.0)
    measure, again = RidgeProbes(10, ridges=ridges, shares=SHARES), RidgeProbes(10, ridges=ridges, shares=SHARES)
    for at in torch.arange(600).tensor_split(7):
        measure.update({name: h[at] for name, h in layers.items()}, labels[at])
        again.load_state_dict(measure.state_dict())
    parts = {part: at.numpy() for part, at in SHARES.cut(0, 600).items()}
    wanted = np.eye(10)[labels.numpy()]
    for name, h in layers.items():
        x = h.double().numpy()
        fit, choose, test = (x[parts[part]] for part in ("fit", "choose", "test"))
        twins = [Ridge(alpha=r * fit.var(0).mean() * len(fit)).fit(fit, wanted[parts["fit"]]) for r in ridges]
        losses = [np.square(twin.predict(choose) - wanted[parts["choose"]]).sum(1).mean() for twin in twins]
        best = int(np.argmin(losses))
        found = measure.result()[name]
        assert found.ridge == ridges[best] and found.chosen_loss == pytest.approx(losses[best], rel=1e-6)
        np.testing.assert_allclose(found.weight[:-1].numpy(), twins[best].coef_.T, atol=1e-6)
        said = twins[best].predict(test).argmax(1)
        assert found.accuracy == pytest.approx((said == labels.numpy()[parts["test"]]).mean())
        assert torch.equal(again.result()[name].weight, found.weight)
    assert found.accuracy > 0.5


def test_logistic_probe_is_the_penalised_regression(digits: tuple[Tensor, Tensor]) -> None:
    layers, labels = _layers(digits, 200)
    for h in layers.values():
        weight = fit_logistic_probe(3 * h, labels, num_classes=10, ridge=0.01)
        x = 3 * h.double().numpy()
        penalty = 0.01 * x.var(0).mean() * len(x)
        twin = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=3000, solver="newton-cg").fit(x, labels.numpy())
        np.testing.assert_allclose(weight[:-1].numpy(), twin.coef_.T, atol=1e-5)
        offset = twin.intercept_ - twin.intercept_.mean()
        np.testing.assert_allclose(weight[-1].numpy(), offset, atol=1e-4)
        near = fit_logistic_probe(3 * h, labels, num_classes=10, ridge=0.01, start=weight + 0.01)
        torch.testing.assert_close(near, weight, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="penalty greater than 0 to have a minimum, got 0"):
        fit_logistic_probe(h, labels, num_classes=10, ridge=0)


def test_logistic_probes_are_chosen_and_tested_on_samples_of_their_own(digits: tuple[Tensor, Tensor]) -> None:
    layers, labels = _layers(digits, 200)
    measure, again = (LogisticProbes(10, ridges=(1e-3, 1.0), shares=SHARES) for _ in range(2))
    for at in torch.arange(200).tensor_split(3):
        measure.update({"narrow": layers["narrow"][at]}, labels[at])
        again.load_state_dict(measure.state_dict())
    found, parts, h = measure.result()["narrow"], SHARES.cut(0, 200), layers["narrow"]
    tried = {}
    for ridge in (1e-3, 1.0):
        own = fit_logistic_probe(h[parts["fit"]], labels[parts["fit"]], num_classes=10, ridge=ridge)
        said = h[parts["choose"]].double() @ own[:-1] + own[-1]
        tried[ridge] = float(torch.nn.functional.cross_entropy(said, labels[parts["choose"]])), own
    assert found.ridge == min(tried, key=lambda ridge: tried[ridge][0])
    assert found.chosen_loss == pytest.approx(tried[found.ridge][0], rel=1e-6)
    accuracy = linear_probe_accuracy(tried[found.ridge][1], h[parts["test"]], labels[parts["test"]])
    assert found.accuracy == pytest.approx(accuracy)
    assert torch.equal(again.result()["narrow"].weight, found.weight)


def test_bad_input_is_refused_by_name() -> None:
    h = torch.randn(4, 3)
    for measure in (RidgeProbes(3), LogisticProbes(3)):
        with pytest.raises(ValueError, match=r"needs a label for each of 4 samples, .* got none"):
            measure.update({"h": h})
        with pytest.raises(ValueError, match=r"must lie in \[0, 3\), found 0 to 3"):
            measure.update({"h": h}, torch.arange(4))
        with pytest.raises(ValueError, match="must have seen at least one"):
            measure.result()
        measure.update({"h": h[:1]}, torch.zeros(1, dtype=torch.int64))
        with pytest.raises(ValueError, match="samples to fit, to choose and to test on, got"):
            measure.result()
    with pytest.raises(ValueError, match="at most 2 features"):
        RidgeProbes(3, max_features=2).update({"h": h}, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"a penalty greater than 0, got 3 and \(0.0,\)"):
        LogisticProbes(3, ridges=(0.0,))
