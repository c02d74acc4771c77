"""Which runs stand beside the MNIST table of Jaderberg et al. 2017? One function per row.

A name is method_layers: `cdni_5` is the network of 5 layers (output layer counted) with conditional synthetic
gradients after each of its 4 hidden layers. A `p020` at the end: each stage learns from 20 % of the steps. `unlocked`:
every stage but the first runs on synthetic inputs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import nn

from dni import (
    MLP,
    Bernoulli,
    ConditionalSyntheticGradient,
    GradientSource,
    InputMLP,
    NoGradient,
    Synthesizer,
    SyntheticGradient,
    SyntheticInput,
    TrueGradient,
)
from experiments.datasets import mnist
from pipeline import Adam, Config, Data, KeyedBatches

BATCH_SIZE = 256
STEPS = 8 * 235
"""8 epochs of 60000 samples."""
WIDTH = 256
"""Of every hidden layer."""


def no_bp_3() -> Config:
    return _run(3, NoGradient())


def no_bp_4() -> Config:
    return _run(4, NoGradient())


def no_bp_5() -> Config:
    return _run(5, NoGradient())


def no_bp_6() -> Config:
    return _run(6, NoGradient())


def bp_3() -> Config:
    return _run(3, TrueGradient())


def bp_4() -> Config:
    return _run(4, TrueGradient())


def bp_5() -> Config:
    return _run(5, TrueGradient())


def bp_6() -> Config:
    return _run(6, TrueGradient())


def dni_3() -> Config:
    return _unconditional(3, "linear", rate=3e-4)


def dni_4() -> Config:
    return _unconditional(4, "linear", rate=3e-4)


def dni_5() -> Config:
    return _unconditional(5, "linear", rate=3e-4)


def dni_6() -> Config:
    return _unconditional(6, "linear", rate=3e-4)


def dni_fast_5() -> Config:
    """The network as fast as in the other methods' rows."""
    return replace(dni_5(), optimizer=Adam(lr=1e-3))


def dni_paper_3() -> Config:
    return _unconditional(3, MLP(hidden=(1024, 1024)), rate=3e-5)


def dni_paper_4() -> Config:
    return _unconditional(4, MLP(hidden=(1024, 1024)), rate=3e-5)


def dni_paper_5() -> Config:
    return _unconditional(5, MLP(hidden=(1024, 1024)), rate=3e-5)


def dni_paper_6() -> Config:
    return _unconditional(6, MLP(hidden=(1024, 1024)), rate=3e-5)


def cdni_3() -> Config:
    return _run(3, _cdni())


def cdni_4() -> Config:
    return _run(4, _cdni())


def cdni_5() -> Config:
    return _run(5, _cdni())


def cdni_6() -> Config:
    return _run(6, _cdni())


def cdni_sync_5() -> Config:
    """One step in ten, drawn by chance, uses the true gradient all the way down."""
    return replace(cdni_5(), sync=Bernoulli(0.1))


def cdni_5_torchrun() -> Config:
    """The same as `cdni_5`, a process per stage."""
    return replace(cdni_5(), executor="distributed", num_ranks=5)


def dni_4_p020() -> Config:
    return _sometimes(dni_4(), 0.2)


def cdni_4_p005() -> Config:
    return _sometimes(cdni_4(), 0.05)


def cdni_4_p010() -> Config:
    return _sometimes(cdni_4(), 0.1)


def cdni_4_p020() -> Config:
    return _sometimes(cdni_4(), 0.2)


def cdni_4_p050() -> Config:
    return _sometimes(cdni_4(), 0.5)


def cdni_4_unlocked() -> Config:
    return _unlocked(cdni_4())


def cdni_4_unlocked_p020() -> Config:
    return _unlocked(_sometimes(cdni_4(), 0.2))


def dni_4_unlocked() -> Config:
    return _unlocked(dni_4())


def _unlocked(config: Config) -> Config:
    """No stage waits for the ones below it either; its input's network learns as often as the stage."""
    (probability,) = config.update_probability
    inputs = SyntheticInput(InputMLP(hidden=(WIDTH,)), update_probability=probability, optimizer=Adam(lr=3e-3))
    return replace(config, inputs=inputs)


def _sometimes(config: Config, probability: float) -> Config:
    """Each stage learns from a step by its own draw; as many steps more, so that it learns as often."""
    return replace(config, update_probability=(probability,), steps=round(config.steps / probability))


def _run(num_layers: int, source: GradientSource) -> Config:
    return Config(
        model=partial(_layers, num_layers),
        data=_data,
        loss=nn.CrossEntropyLoss(),
        source=source,
        steps=STEPS,
        optimizer=Adam(lr=1e-3),
        arrival="fixed",
        delay=(2,),
        device="cpu",
    )


def _unconditional(num_layers: int, synthesizer: Synthesizer, *, rate: float) -> Config:
    """Without labels. `rate` is the network's: at 1e-3 it outruns its synthesizers (`dni_fast_5`, select.py)."""
    source = SyntheticGradient(synthesizer, optimizer=Adam(lr=1e-3))
    return replace(_run(num_layers, source), optimizer=Adam(lr=rate))


def _cdni() -> ConditionalSyntheticGradient:
    return ConditionalSyntheticGradient(num_classes=10, synthesizer="linear", optimizer=Adam(lr=1e-3))


def _layers(num_layers: int) -> list[nn.Module]:
    """A stage per layer; a boundary after every hidden layer's activation."""
    hidden = [_hidden(784 if index == 0 else WIDTH) for index in range(num_layers - 1)]
    return [*hidden, nn.Linear(WIDTH, 10)]


def _hidden(num_inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())


def _data() -> Data:
    digits = mnist()
    return Data(
        train=KeyedBatches(digits.train_x, digits.train_y, batch_size=BATCH_SIZE),
        test=list(zip(digits.test_x.split(1000), digits.test_y.split(1000), strict=True)),
    )
