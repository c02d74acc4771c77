"""Do whole heads of an attention that a user wrote go while it trains, as they do from one that is cut by hand?"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import At, Count, Event, PruneUnits
from pipeline import Config, Data, KeyedBatches, load, partition, prepare, run_simulated
from pipeline.executors.executor import Execute
from pipeline.executors.threaded import run_threaded
from pipeline.randomness.keyed import seeded
from pipeline.records.network_file import save_network
from tests.reference import CPU, assert_bit_equal

WIDTH, HEAD, PRUNED_AT, STEPS, SEED = 6, 2, 4, 9, 3
OPTIMIZER = partial(torch.optim.Adam, lr=3e-3)
X = torch.randn(48, 5, WIDTH, generator=torch.Generator().manual_seed(0))
TARGET = torch.arange(48) % 3


class SelfAttention(nn.Module):
    """Heads of 2 channels each; x (N, T, C)."""

    def __init__(self, num_heads: int = 4) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(WIDTH, HEAD * num_heads) for _ in range(3))
        self.out = nn.Linear(HEAD * num_heads, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        heads = (q @ k.transpose(-1, -2) * HEAD**-0.5).softmax(-1) @ v
        y: Tensor = x + self.out(heads.transpose(1, 2).flatten(2))
        return y

    def coupled_units(self) -> Sequence[tuple[tuple[str, ...], tuple[str, ...], int]]:
        return [(("q", "k", "v"), ("out",), HEAD)]

    def fit_units_(self) -> None:
        self.num_heads = self.out.in_features // HEAD


def make(num_heads: int = 4) -> nn.Sequential:
    """Embedding and attention; what reads them is the second stage."""
    layers = {"embed": nn.Linear(WIDTH, WIDTH), "attn": SelfAttention(num_heads)}
    return nn.Sequential(OrderedDict(layers | {"flat": nn.Flatten(), "head": nn.Linear(5 * WIDTH, 3)}))


def batches() -> KeyedBatches:
    return KeyedBatches(X, TARGET, batch_size=12, seed=SEED)


def config() -> Config:
    return Config(
        model=lambda: partition(make(), at=("flat",)),
        data=lambda: Data(train=batches()),
        loss=nn.CrossEntropyLoss(),
        optimizer=OPTIMIZER,
        steps=STEPS,
        seed=SEED,
        events=(Event(At(PRUNED_AT), PruneUnits(layers=("attn.q",), amount=Count(2))),),
    )


@cache
def pruned_by_hand() -> nn.Sequential:
    """Plain PyTorch: after the update of a step, go on with another model of two heads, and another optimiser."""
    seeded(SEED, "model", 0, device=CPU)
    model = make().train()
    optimizer = OPTIMIZER(model.parameters())
    for step, (x, target) in zip(range(STEPS), batches().start(0), strict=False):
        F.cross_entropy(model(x), target, reduction="sum").backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(len(x))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step == PRUNED_AT:
            model, optimizer = _without_two_heads(model, optimizer)
    return model


def _without_two_heads(
    model: nn.Sequential, optimizer: torch.optim.Optimizer
) -> tuple[nn.Sequential, torch.optim.Optimizer]:
    held = model.state_dict()
    squares = [held[f"attn.{name}.weight"].square().unflatten(0, (4, HEAD)).sum((1, 2)) for name in "qkv"]
    heads = sorted(torch.stack(squares).sum(0).argsort()[2:].tolist())
    channels = [HEAD * head + channel for head in heads for channel in range(HEAD)]

    def cut(name: str, value: Tensor) -> Tensor:
        if value.dim() == 0:
            return value
        if name.startswith(("attn.q", "attn.k", "attn.v")):
            return value[channels]
        return value[:, channels] if name == "attn.out.weight" else value

    smaller = make(2).train()
    smaller.load_state_dict({name: cut(name, value) for name, value in held.items()})
    again, known = OPTIMIZER(smaller.parameters()), optimizer.state_dict()
    names = [name for name, _ in model.named_parameters()]
    for place, own in known["state"].items():
        known["state"][place] = {key: cut(names[place], value) for key, value in own.items()}
    again.load_state_dict(known)
    return smaller, again


@pytest.mark.parametrize("execute", [run_simulated, run_threaded])
def test_pruned_heads_leave_the_network_that_is_cut_by_hand_and_it_leaves_the_project(
    execute: Execute, tmp_path: Path
) -> None:
    prepared = prepare(config())
    (change,) = prepared.changes
    assert "2 of 4" in change.what
    found, twin = execute(prepared).export(), pruned_by_hand()
    assert found["attn.q.weight"].shape == (2 * HEAD, WIDTH) and found["attn.out.weight"].shape == (WIDTH, 2 * HEAD)
    assert_bit_equal(found, twin.state_dict())
    save_network(tmp_path / "network.pt", found)
    loaded = make()
    load(loaded, tmp_path / "network.pt")
    assert loaded.attn.num_heads == 2
    assert torch.equal(loaded(X), twin(X))
