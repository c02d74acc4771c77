"""How is an arm trained: at which rates, from which gradients, by which configuration?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from dni import ConditionalSyntheticGradient, GradientSource, LocalLoss, TrueGradient
from experiments.changing_structure.arms import ARMS
from experiments.changing_structure.sites import BATCH_SIZE, Site, Split, split
from pipeline import Adam, Config, Data, KeyedBatches

__all__ = ["FULL_SEEDS", "RATES", "SCREENING_SEED", "SEEDS", "SOURCES", "SOURCE_TITLES", "TRUE", "make_config"]

RATES = (1e-3, 3e-3, 1e-2)
"""Of Adam, at the first step."""
SCREENING_SEED = 0
"""Rates and finalists are chosen with it, on held-out samples; it is not among those of the finals."""
SEEDS = (1, 2, 3)
FULL_SEEDS = (1, 2, 3)
TRUE = "true"
SOURCES: Mapping[str, Callable[[], GradientSource]] = {
    TRUE: TrueGradient,
    "local": partial(LocalLoss, num_classes=10),
    "synthetic": partial(ConditionalSyntheticGradient, num_classes=10),
}
"""Of every boundary."""
SOURCE_TITLES: Mapping[str, str] = {TRUE: "true gradients", "local": "local losses", "synthetic": "synthetic gradients"}


def make_config(arm: str, site: Site, *, rate: float, seed: int, source: str = TRUE) -> Config:
    """The whole configuration of a run.

    Args:
        arm: one of ARMS.
        site: data, size and steps.
        rate: of Adam, at the first step.
        seed: of initial weights, order of the samples, and what events draw.
        source: one of SOURCES.
    """
    own = ARMS[arm]
    return Config(
        model=partial(own.network, site),
        at=own.at,
        num_stages=None if own.at else 1,
        data=lambda: Data(train=_batches(split(site.task.data, site.size))),
        loss=nn.CrossEntropyLoss(),
        source=SOURCES[source](),
        optimizer=Adam(lr=rate),
        schedule=own.schedule(site),
        events=own.events(site),
        delay=(1,),  # a stage waits for its true gradient: plain back-propagation
        steps=site.steps,
        seed=seed,
        log_every=site.steps,
        executor="simulate",
        device="cpu",
    )


def _batches(data: Split) -> KeyedBatches:
    return KeyedBatches(data.train_x, data.train_y, batch_size=BATCH_SIZE, drop_last=True)
