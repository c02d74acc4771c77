"""At which rate, and with which synthesizer, are the rows without labels (DNI) run? Decided on a validation set.

python -m experiments.jaderberg2017_synthetic.select trains 5 layers on the first 50,000 training images and looks at
the error on the last 10,000; the test images are not touched. Results are appended to selection.jsonl.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product

import torch
from rich.console import Console

from dni import MLP, SyntheticGradient
from experiments.datasets import mnist
from experiments.jaderberg2017_synthetic.config import BATCH_SIZE, dni_5
from experiments.jaderberg2017_synthetic.results import FOLDER
from experiments.jobs import carry_out
from experiments.records import append_line
from pipeline import Adam, Data, KeyedBatches, prepare, run_simulated
from pipeline.records.folder import commit

SELECTION = FOLDER / "selection.jsonl"
RATES = (1e-3, 3e-4, 1e-4, 3e-5)
"""Of the network; the synthesizers' is 1e-3."""
SYNTHESIZERS = {"linear": "linear", "one hidden layer of 256": MLP(hidden=(256,))}
SEED = 100
"""No row of the table has it."""


def held_out() -> Data:
    """50,000 images to train on; the last 10,000 of the training set in the place of the test set."""
    digits = mnist()
    x, y = digits.train_x, digits.train_y
    return Data(
        train=KeyedBatches(x[:50_000], y[:50_000], batch_size=BATCH_SIZE),
        test=list(zip(x[50_000:].split(1000), y[50_000:].split(1000), strict=True)),
    )


def validate(candidate: tuple[float, str]) -> dict[str, object]:
    """Train one candidate, a rate and the name of a synthesizer; its line of selection.jsonl."""
    rate, synthesizer = candidate
    source = SyntheticGradient(SYNTHESIZERS[synthesizer], optimizer=Adam(lr=1e-3))
    config = replace(dni_5(), data=held_out, source=source, optimizer=Adam(lr=rate), seed=SEED)
    summary = run_simulated(prepare(config)).summary
    return {
        "rate": rate,
        "synthesizer": synthesizer,
        "validation_error": summary["test_error"],
        "steps": summary["steps"],
        "seed": SEED,
        "wall_s": summary["wall_s"],
        "commit": commit(),
        "torch": torch.__version__,
    }


def main() -> int:
    """Validate every candidate, two at a time; 1 if any failed."""

    def on_line(line: dict[str, object]) -> None:
        append_line(line, SELECTION)
        print(line)

    return carry_out(
        list(product(RATES, SYNTHESIZERS)),
        validate,
        name=lambda candidate: f"rate {candidate[0]:g}, {candidate[1]}",
        on_result=on_line,
        num_workers=2,
        console=Console(),
    )


if __name__ == "__main__":
    sys.exit(main())
