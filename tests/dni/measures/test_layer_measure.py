"""Do all measures of representations keep to what they have in common?"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.measures.cka import LinearCKA
from dni.measures.dormancy import DormantUnits
from dni.measures.layer_measure import LayerMeasure
from dni.measures.probes import LogisticProbes, RidgeProbes
from dni.measures.rank import Ranks
from dni.measures.rsa import RSA, ClassContrast

MEASURES: list[Callable[[], LayerMeasure[Any]]] = [
    LinearCKA,
    RSA,
    ClassContrast,
    Ranks,
    DormantUnits,
    lambda: RidgeProbes(2),
    lambda: LogisticProbes(2),
]


@pytest.fixture(params=MEASURES, ids=lambda make: type(make()).__name__)
def make(request: pytest.FixtureRequest) -> Callable[[], LayerMeasure[Any]]:
    return request.param  # type: ignore[no-any-return]


def _minibatch() -> tuple[dict[str, Tensor], Tensor]:
    x = torch.randn(20, 3, requires_grad=True)
    return {"a": x * 2, "b": x.repeat(1, 4).view(20, 3, 2, 2)}, torch.arange(20) % 2


def test_measure_goes_on_from_its_saved_state_to_the_bit(make: Callable[[], LayerMeasure[Any]]) -> None:
    measure, again = make(), make()
    assert isinstance(measure, LayerMeasure)
    measure.update(*_minibatch())
    file = io.BytesIO()
    torch.save(measure.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    features, target = _minibatch()
    held = {name: h.detach().clone() for name, h in features.items()}
    for own in (measure, again):
        own.update(features, target)
    assert repr(again.result()) == repr(measure.result()), "and asking changes nothing"
    assert repr(measure.result()) == repr(again.result()) and "requires_grad" not in repr(measure.state_dict())
    assert all(torch.equal(held[name], h) for name, h in features.items())


def test_minibatch_that_does_not_fit_is_refused_by_name_and_leaves_nothing(
    make: Callable[[], LayerMeasure[Any]],
) -> None:
    measure = make()
    with pytest.raises(ValueError, match=f"{type(measure).__name__} must have seen at least one minibatch"):
        measure.result()
    features, target = _minibatch()
    measure.update(features, target)
    before = repr(measure.state_dict())
    bad: list[tuple[dict[str, Tensor], str]] = [
        ({}, "at least one layer"),
        ({"a": features["a"]}, "missing b, new none"),
        ({**features, "c": features["a"]}, "missing none, new c"),
        ({"a": features["a"], "b": features["b"][1:]}, "same samples, got 20 of a and 19 of b"),
        ({"a": features["a"], "b": features["b"] / 0}, "features of b must be finite, found 240 of 240"),
        ({"a": torch.arange(20), "b": features["b"]}, r"features of a must be floating point \(N, F\)"),
    ]
    for given, message in bad:
        with pytest.raises(ValueError, match=message):
            measure.update(given, target)
    if isinstance(measure, Ranks | RidgeProbes | LogisticProbes):
        with pytest.raises(ValueError, match="b must keep its 12 features, got 6"):
            measure.update({"a": features["a"], "b": features["b"][:, :, 0]}, target)
    assert repr(measure.state_dict()) == before
