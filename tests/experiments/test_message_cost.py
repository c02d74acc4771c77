"""Does the benchmark of messages still run, and is its table what was recorded?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.message_cost import run
from pipeline import prepare, run_simulated

LOSS = 2.319465
"""Of the second step with seed 0."""


@pytest.mark.experiment
def test_benchmark_trains_two_steps_with_the_losses_written_down() -> None:
    losses: list[float] = []
    config = replace(run.config(16, ranks=3, steps=2), executor="simulate", log_every=1, arrival="fixed")
    run_simulated(prepare(config), on_status=lambda statuses: losses.append(statuses[-1].loss))
    assert losses[-1] == pytest.approx(LOSS, rel=1e-4)
