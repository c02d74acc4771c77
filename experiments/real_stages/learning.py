"""What does an update at every microbatch do to learning, beside one in eight?

The same network with MNIST's 784 inputs, in two stages, for the same number of samples: from the true gradient
(backprop) and from a rank-128 conditional synthesizer, at the same rate and at a rate scaled with the samples per
update.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from rich.console import Console
from torch import nn

from dni import Always, Never
from experiments.datasets import Dataset, mnist
from experiments.real_stages.cases import BATCH_SIZE, network, source
from pipeline import Config, Data, KeyedBatches, NotFinite, Sgd, StageFailure, prepare, run_simulated

__all__ = ["learn", "learning_config"]

RATE, SOURCE_RATE = 0.005, 1e-4
VARIANTS = ((1, 1.0), (8, 1.0), (8, 8.0))
"""(microbatches per update, factor of the rate)."""


def learn(*, samples: int, seeds: Sequence[int], width: int) -> Iterator[dict[str, Any]]:
    """Train every variant, two at a time; what became of each, as it ends."""
    console = Console(soft_wrap=True)
    jobs = [(method, *variant, seed) for seed, method, variant in product(seeds, ("backprop", "cDNI"), VARIANTS)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        results = pool.map(partial(_learn_one, samples=samples, width=width), jobs)
        for done, line in enumerate(results, start=1):
            what = f"{line['method']}, an update every {line['per_update']}, rate {line['rate']}, seed {line['seed']}"
            console.print(f"{done}/{len(jobs)}: [bold]{what}[/bold]: {_outcome(line)}", highlight=False)
            yield line


def learning_config(
    method: str, *, per_update: int, rate: float, seed: int, steps: int, width: int, data: Dataset
) -> Config:
    """One variant."""
    test = list(zip(data.test_x.split(1000), data.test_y.split(1000), strict=True))
    return Config(
        model=partial(network, width, data.train_x.shape[1]),
        data=lambda: Data(train=KeyedBatches(data.train_x, data.train_y, batch_size=BATCH_SIZE), test=test),
        loss=nn.CrossEntropyLoss(),
        source=source("rank 128", rate=SOURCE_RATE),
        sync=Always() if method == "backprop" else Never(),
        optimizer=Sgd(lr=rate),
        num_stages=2,
        cadence=(per_update,),
        steps=steps,
        seed=seed,
        measure_every=0,
    )


def _learn_one(job: tuple[str, int, float, int], *, samples: int, width: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    method, per_update, factor, seed = job
    rate, steps = RATE * factor, samples // BATCH_SIZE
    config = learning_config(
        method, per_update=per_update, rate=rate, seed=seed, steps=steps, width=width, data=_mnist()
    )
    line = {"method": method, "per_update": per_update, "rate": rate, "seed": seed, "samples": steps * BATCH_SIZE}
    try:
        summary = run_simulated(prepare(config)).summary
    except StageFailure as failure:
        if not isinstance(failure.__cause__, NotFinite):
            raise
        return line | {"diverged": str(failure), "train_loss": None, "test_loss": None, "test_error": None}
    return line | {name: summary[name] for name in ("train_loss", "test_loss", "test_error")}


def _outcome(line: dict[str, Any]) -> str:
    return "diverged" if line["test_error"] is None else f"test error {line['test_error']:.2%}"


@cache
def _mnist() -> Dataset:
    return mnist()
