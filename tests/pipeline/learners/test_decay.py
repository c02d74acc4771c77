"""Do a stage's weights decay as its run says, as those of torch's optimisers do, and never twice?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import Cosine, WeightDecay, Within
from pipeline import Adam, ConfigurationError, KeyedBatches, Sgd, train
from pipeline.learners.updater import OptimizerFactory

STRENGTH = 0.3
RATE = 0.05


def _trained(optimizer: OptimizerFactory, decay: WeightDecay | None = None, **more: Any) -> list[Tensor]:
    """Weights of two stages after six microbatches, clipped, at a falling rate and with a cadence of 2."""
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(5, 4), nn.ReLU()), nn.Linear(4, 3)]
    x = torch.randn(24, 5)
    settings: dict[str, Any] = {"schedule": Cosine(total=8), "clip_norm": 0.5, "cadence": (2,), "delay": (1,)}
    train(
        stages,
        KeyedBatches(x, x[:, :3].argmax(1), batch_size=4),
        loss=nn.CrossEntropyLoss(),
        steps=6,
        optimizer=optimizer,
        weight_decay=decay,
        **{**settings, **more},
    )
    return [parameter.detach() for stage in stages for parameter in stage.parameters()]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("ours", "coupling", "torchs"),
    [
        (Sgd(lr=RATE, momentum=0.9), "coupled", Sgd(lr=RATE, momentum=0.9, weight_decay=STRENGTH)),
        (Adam(lr=RATE), "coupled", Adam(lr=RATE, weight_decay=STRENGTH)),
        (Adam(lr=RATE), "decoupled", partial(torch.optim.AdamW, lr=RATE, weight_decay=STRENGTH)),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_run_whose_weights_decay_is_that_of_torchs_own_decay_to_the_bit(
    ours: OptimizerFactory, coupling: Any, torchs: OptimizerFactory
) -> None:
    assert _same(_trained(ours, WeightDecay(strength=STRENGTH, coupling=coupling)), _trained(torchs))


def test_window_counts_the_steps_of_the_run_not_the_updates() -> None:
    """Updates come after steps 1, 3 and 5; the rate is that of the schedule at these steps."""
    decay = partial(WeightDecay, strength=STRENGTH)
    never, always = _trained(Sgd(lr=RATE)), _trained(Sgd(lr=RATE), decay())
    assert _same(_trained(Sgd(lr=RATE), decay(schedule=Within(2, 3))), never)
    assert _same(_trained(Sgd(lr=RATE), decay(schedule=Within(1, 6))), always)
    first = _trained(Sgd(lr=RATE), decay(schedule=Within(stop=2)))
    assert not _same(first, never) and not _same(first, always)


@pytest.mark.parametrize(
    ("optimizer", "own"),
    [(Sgd(weight_decay=0.1), "SGD has weight_decay 0.1"), (torch.optim.AdamW, "AdamW has weight_decay 0.01")],
)
def test_optimiser_with_a_decay_of_its_own_is_refused_by_name(optimizer: Callable[..., Any], own: str) -> None:
    with pytest.raises(ConfigurationError, match=own):
        _trained(optimizer, WeightDecay(strength=STRENGTH))
