"""Chains of equal stages to be timed, for the tests of simulation without mathematics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from torch import nn

from dni import GradientSource, LocalLoss, NoGradient, Shadow, SyntheticGradient, TrueGradient
from pipeline.configuration.config import Config, Data
from pipeline.configuration.methods import MethodName, by_name
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import prepare
from pipeline.data.feed import KeyedBatches
from pipeline.virtual_time.equal import equal_stages
from tests.pipeline.chain import WIDTH, features, labels, linear

SOURCES: dict[str, Callable[[], GradientSource]] = {
    "true": TrueGradient,
    "synthetic": SyntheticGradient,
    "none": NoGradient,
    "shadow": lambda: Shadow(SyntheticGradient()),
    "local": lambda: LocalLoss(WIDTH),
    "local shadow": lambda: Shadow(LocalLoss(WIDTH)),
}


@cache
def _base(source: str) -> Prepared:
    x, target = features(0, num_samples=6), labels(0, num_samples=6)
    return prepare(
        Config(
            model=lambda: [linear(0), linear(1), linear(2)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=2)),
            loss=nn.CrossEntropyLoss(),
            source=SOURCES[source](),
            steps=1,
            delay=(1,),
        )
    )


def timed_chain(source: str, num_stages: int, **settings: Any) -> Prepared:
    """Equal stages with one kind of source at every boundary, and any other field of the configuration."""
    chain = equal_stages(_base(source), num_stages)
    return replace(chain, config=replace(chain.config, **settings))


def timed_method(name: MethodName, num_stages: int, *, num_microbatches: int = 8, **settings: Any) -> Prepared:
    """Equal stages with a method."""
    chain = timed_chain("synthetic" if name == "decoupled" else "true", num_stages, **settings)
    config = by_name(name, chain.config, num_microbatches=num_microbatches, num_stages=num_stages)
    return replace(chain, config=config)
