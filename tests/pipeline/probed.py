"""Runs to probe: small ones in float64, made by a configuration's file as `dni train` makes them, once a session."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from pipeline import run_simulated
from pipeline.configuration.parsing import parse_config, record_of
from pipeline.configuration.run import prepare
from pipeline.probes.network import Network, Samples, take_samples
from pipeline.probes.probed_run import ProbedRun
from pipeline.records.folder import make_folder

__all__ = ["CONFIG", "network_of", "run_folder", "samples_of"]

CONFIG = """
from dataclasses import replace

import torch
from torch import nn

from dni import At, ConditionalSyntheticGradient, Count, Event, PruneUnits, TrueGradient
from pipeline import Config, Data, KeyedBatches


def network(width=6, act=nn.Tanh):
    return nn.Sequential(nn.Linear(4, width), act(), nn.Linear(width, 5), act(), nn.Linear(5, 3)).double()


def data(num_test=48):
    x = torch.randn(96, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = x[:, :3].argmax(1)
    test = [(x[i:i + 16], target[i:i + 16]) for i in range(0, num_test, 16)]
    return Data(train=KeyedBatches(x, target, batch_size=12), test=test)


def base():
    return Config(model=network, data=data, loss=nn.CrossEntropyLoss(), source=ConditionalSyntheticGradient(3),
                  at=("2", "4"), steps=12, checkpoint_every=4, keep_last=9, executor="simulate", name="base")


def backprop():
    return replace(base(), source=TrueGradient())


def wider():
    return replace(backprop(), model=lambda: network(7))


def one_stage():
    return replace(backprop(), at=(), num_stages=1)


def pruned():
    return replace(base(), events=(Event(At(6), PruneUnits(layers=("0",), amount=Count(2))),))


def normalised():
    def model():
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    return replace(base(), model=model, at=("4",))


def no_test():
    return replace(base(), data=lambda: data(0))


def of_pairs():
    def loss(y, target):
        return (y @ y.T).square().mean() + y.square().sum().sqrt() ** 1.5
    return replace(base(), loss=loss)
"""


@cache
def _runs() -> Path:
    # Kept for the session; the system clears it.
    folder = Path(tempfile.mkdtemp(prefix="probed-"))
    (folder / "config.py").write_text(CONFIG)
    return folder


@cache
def run_folder(name: str) -> Path:
    """The folder of a finished run; not to be changed."""
    reference, folder = f"{_runs() / 'config.py'}:{name}", _runs() / name
    prepared = prepare(parse_config(reference, [], command="train"))
    make_folder(folder, record_of(reference, [], prepared))
    run_simulated(prepared, folder=folder)
    return folder


def samples_of(name: str, count: int | None = None, *, batch: int = 20) -> Samples:
    """Of its test data."""
    run = _probed(name)
    return take_samples(run.prepared, split="test", wanted=count, default=1000, batch=batch, device=run.device)


@cache
def network_of(name: str, step: int = 12) -> Network:
    """Of a run at a checkpoint; not to be changed."""
    return _probed(name).network(step, samples_of(name))


@cache
def _probed(name: str) -> ProbedRun:
    return ProbedRun(run_folder(name), device="cpu")
