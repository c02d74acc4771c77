"""Does the worked example of a source of one's own work as it stands in the documentation?"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni import GradientSource, Signal
from pipeline import train

PAGE = Path(__file__).parents[1] / "docs" / "own_source.md"


@pytest.fixture(scope="module")
def source() -> Any:
    """The class that the page's first block of code makes."""
    (block, *_) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    names: dict[str, Any] = {"__name__": "own_source"}
    exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    return names["ClassMeanGradient"]


def test_example_keeps_the_contract(source: Any) -> None:
    own = source(3)
    h, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    signal = Signal(step=0, target=target, gradient=torch.randn(3, 4)[target])
    own.build(h, generator=torch.Generator())
    assert isinstance(own, GradientSource)
    losses = [own.learn(h, signal) for _ in range(60)]
    assert losses[-1] < 0.01 * losses[0]
    torch.testing.assert_close(own.estimate(h, signal), signal.gradient, rtol=0.05, atol=0.05)
    loaded = source(3)
    loaded.load_state_dict(copy.deepcopy(own.state_dict()))
    assert torch.equal(loaded.estimate(h, signal), own.estimate(h, signal))


@pytest.mark.parametrize("executor", ["simulate", "threads"])
def test_example_trains(source: Any, executor: Any) -> None:
    x = torch.randn(256, 8)
    loader = [(x[i : i + 32], (x[i : i + 32, 0] > 0).long()) for i in range(0, 256, 32)] * 8
    layers = [nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 2)]
    result = train(layers, loader, loss=nn.CrossEntropyLoss(), source=source(2), steps=60, executor=executor, seed=0)
    assert result.summary["status"] == "finished" and result.summary["train_loss"] < 0.69
