"""Does an exported network compute what the trained stages do, whatever its structure has become?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pipeline
from dni import (
    At,
    Attach,
    Component,
    Count,
    Edit,
    Event,
    Grow,
    Insertion,
    LinearRamp,
    PruneUnits,
    edits_to_json,
)
from pipeline import Config, Data, KeyedBatches, Result, partition, prepare, run_simulated
from pipeline.errors import CheckpointError
from pipeline.records.network_file import load, save_network
from tests.reference import assert_bit_equal, state

X = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(40) % 3
PRUNE = Event(At(2), PruneUnits(layers=("0", "4"), amount=Count(2)))
GROW = Event(At(4), Grow(layers=("0", "4"), amount=Count(1), alpha=1.0))
GATED = Event(At(6), Grow(layers=("4",), amount=Count(3), alpha=1.0, ramp=LinearRamp(num_steps=8)), name="gated")
BESIDE, BEHIND = Component(layer="4", units=2, alpha=1.0), Insertion(behind="2", units=5, kernel=(3, 3))
PARTS = (Event(At(7), Attach(edit=BEHIND), name="behind"), Event(At(8), Attach(edit=BESIDE), name="beside"))


def network(channels: int = 6, hidden: int = 8) -> nn.Sequential:
    """Three stages: two convolutional, flattened at the second boundary, and the output."""
    convolution = [nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(16 * channels, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def trained(*events: Event) -> Result:
    config = Config(
        model=lambda: partition(network(), at=["3", "6"]),
        data=lambda: Data(train=KeyedBatches(X, TARGET, batch_size=8)),
        loss=nn.CrossEntropyLoss(),
        steps=12,
        events=events,
    )
    return run_simulated(prepare(config))


def outputs(result: Result) -> Tensor:
    """Of the trained stages, one after the other."""
    h = X
    with torch.no_grad():
        for stage in result.cut.stages:
            h = stage.eval()(h)
    return h


def loaded(model: nn.Module, path: Path) -> Tensor:
    pipeline.load(model, path)
    with torch.no_grad():
        y: Tensor = model.eval()(X)
    return y


CASES: dict[str, tuple[tuple[Event, ...], tuple[Edit, ...]]] = {
    "nothing": ((), ()),
    "pruned": ((PRUNE,), ()),
    "pruned and grown": ((PRUNE, GROW), ()),
    "gate half open": ((PRUNE, GATED), ()),
    "parts attached": ((PRUNE, GROW, GATED, *PARTS), (BEHIND, BESIDE)),
}


@pytest.mark.parametrize("name", CASES)
def test_exported_network_computes_what_the_trained_stages_do(name: str, tmp_path: Path) -> None:
    events, edits = CASES[name]
    result = trained(*events)
    save_network(tmp_path / "network.pt", result.export(), edits=edits_to_json(edits))
    gates = [value for stage in result.cut.stages for own, value in stage.named_buffers() if own.endswith("unit_gate")]
    assert [sorted(set(gate.tolist())) for gate in gates] == ([[0.625, 1.0]] if GATED in events else [])
    model = network()
    kept = dict(model.named_modules())
    found, expected = loaded(model, tmp_path / "network.pt"), outputs(result)
    if GATED in events:  # a gate that is folded into the weights is multiplied with in another order
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(found, expected)
    assert not any(own.endswith("unit_gate") for own in model.state_dict())
    assert all(dict(model.named_modules())[own] is module for own, module in kept.items()), "the user's own modules"
    assert_bit_equal(dict(model.state_dict()), result.export())


def test_pruned_network_is_the_one_that_is_rebuilt_by_hand(tmp_path: Path) -> None:
    result = trained(PRUNE)
    save_network(tmp_path / "network.pt", result.export())
    by_hand = network(channels=4, hidden=6)
    by_hand.load_state_dict(torch.load(tmp_path / "network.pt", weights_only=True))
    model = network()
    assert torch.equal(loaded(model, tmp_path / "network.pt"), by_hand.eval()(X))
    assert str(model) == str(by_hand), "it says of itself what it is"
    optimizer = torch.optim.Adam(model.parameters())
    nn.CrossEntropyLoss()(model.train()(X), TARGET).backward()
    optimizer.step()


def test_network_whose_structure_never_changed_is_an_ordinary_state_dict(tmp_path: Path) -> None:
    result = trained()
    save_network(tmp_path / "network.pt", result.export())
    saved = torch.load(tmp_path / "network.pt", weights_only=True)
    model = network()
    model.load_state_dict(saved, strict=True)
    assert list(saved) == list(model.state_dict())
    assert torch.equal(model.eval()(X), outputs(result))


WRONG: dict[str, nn.Module] = {
    "of other layers": nn.Sequential(nn.Linear(36, 3)),
    "of more layers": nn.Sequential(*network(), nn.Linear(3, 3)),
    "of layers of another kind": nn.Sequential(*network()[:3], nn.Flatten(), nn.LSTM(8, 2), nn.ReLU(), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("attached", [False, True], ids=["pruned", "with parts"])
def test_other_model_is_refused_by_what_it_lacks(name: str, attached: bool, tmp_path: Path) -> None:
    result = trained(PRUNE)
    edits = [Component(layer="11", units=2)] if attached else []
    save_network(tmp_path / "network.pt", result.export(), edits=edits_to_json(edits))
    with pytest.raises(
        CheckpointError, match=r"(?s)network\.pt is of another network than this Sequential: .*before any"
    ):
        load(WRONG[name], tmp_path / "network.pt")


@pytest.mark.parametrize("content", [b"not a file of torch", None, [1, 2], {"a": 3}])
def test_file_that_is_no_network_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    model = network()
    before = state(model)
    with pytest.raises(CheckpointError, match=r"network\.pt"):
        load(model, path)
    assert_bit_equal(state(model), before)
