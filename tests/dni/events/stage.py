"""What do actions look at in their tests: one stage, with made-up measures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from dni import Action, Hidden, Keyed, Plan, fresh_values
from pipeline.randomness.keyed import generator

__all__ = ["KEYED", "FakeStage", "layer_norm", "mlp", "planned", "record"]

KEYED = partial(generator, 0, step=7)


@dataclass
class FakeStage:
    """A `StageView`."""

    module: nn.Module
    readers: dict[str, list[str]] = field(default_factory=dict)
    norms: dict[str, list[str]] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    activity: dict[str, Tensor] = field(default_factory=dict)
    taylor: dict[str, Tensor] = field(default_factory=dict)
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    initial: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(self.module.named_parameters())

    def has(self, name: str) -> bool:
        return name in dict(self.module.named_modules())

    def layer(self, name: str) -> nn.Module:
        return self.module.get_submodule(name)

    def units(self, layer: str) -> Hidden:
        norms = self.norms.get(layer, [])
        return Hidden.of(self.module, producers=[layer], consumers=self.readers[layer], norms=norms)

    def fresh(self, layer: str, keyed: Keyed) -> dict[str, Tensor]:
        values = fresh_values(self.layer(layer), lambda name: keyed(f"{layer}.{name}"))
        return {f"{layer}.{name}": value for name, value in values.items()}


def mlp(*widths: int) -> FakeStage:
    """Linear layers 0, 2, 4, ... with Tanh between them, in float64."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for num_in, num_out in pairwise(widths):
        layers += [nn.Linear(num_in, num_out), nn.Tanh()]
    readers = {str(i): [str(i + 2)] for i in range(0, len(layers) - 2, 2)}
    return FakeStage(nn.Sequential(*layers[:-1]).double(), readers=readers)


def layer_norm(norm: nn.Module | None = None) -> FakeStage:
    """Four units in layer 0 behind a LayerNorm, or another norm."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), norm or nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)).double()
    return FakeStage(network, readers={"0": ["3"]}, norms={"0": ["1"]})


def planned(action: Action, stage: FakeStage) -> Any:
    """Its plan, which must be there, and be made twice to the same record."""
    plan, again = (action.plan(stage, step=7, keyed=KEYED) for _ in range(2))
    assert plan is not None and again is not None
    assert record(plan) == record(again) and str(plan)
    return plan


def record(plan: Plan) -> Any:
    """As it comes back from JSON: what it was."""
    own = plan.to_record()
    read = json.loads(json.dumps(own))
    assert read == own
    return read
