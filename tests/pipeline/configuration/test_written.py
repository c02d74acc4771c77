"""Does what is written of a setting tell it from others?"""

from __future__ import annotations

import json
from functools import partial

import torch
from torch import nn

from dni import Always, ConditionalSyntheticGradient, Every, Never
from pipeline.configuration.config import Adam
from pipeline.configuration.written import written


def test_policies_without_fields_are_told_apart() -> None:
    assert written(Never()) == {"kind": "Never"} != written(Always())
    assert written(Every(5))["kind"] == "Every"


def test_settings_of_any_kind_are_plain_values() -> None:
    settings = {
        "optimizer": (partial(torch.optim.SGD, lr=0.1), Adam()),
        "source": ConditionalSyntheticGradient(),
        "loss": nn.CrossEntropyLoss(),
        "schedule": lambda step: 1.0,
        "cadence": (1, 2),
        "max_staleness": None,
    }
    found = written(settings)
    assert json.loads(json.dumps(found)) == found
    assert found["optimizer"][0] == {"kind": "SGD", "lr": 0.1} and found["optimizer"][1]["kind"] == "Adam"
    assert found["source"] == "ConditionalSyntheticGradient" and found["cadence"] == [1, 2]
    assert "0x" not in found["schedule"]
