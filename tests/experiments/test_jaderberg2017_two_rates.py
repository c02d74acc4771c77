"""Do the two networks still count what they are to count, and does the table claim no more than its results?"""

from __future__ import annotations

import pytest
import torch

from experiments.datasets import Dataset
from experiments.jaderberg2017_two_rates import config, results, table
from experiments.jaderberg2017_two_rates import run as runs
from experiments.jaderberg2017_two_rates.config import METHODS
from experiments.jaderberg2017_two_rates.results import Errors, Run
from experiments.jaderberg2017_two_rates.run import Job, Options, jobs, measure
from experiments.jaderberg2017_two_rates.streams import TICK, WINDOW, DigitStreams, counts


@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pictures instead of the data set."""
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(256, 784, generator=drawn), torch.randint(10, (256,), generator=drawn)
    small = Dataset(train_x=x, train_y=y, test_x=x, test_y=y, num_classes=10)
    for module in (config, runs):
        monkeypatch.setattr(module, "digits", lambda: small)


def test_counts_are_those_of_a_loop() -> None:
    y = torch.randint(10, (WINDOW, 5), generator=torch.Generator().manual_seed(1))
    found = counts(y)
    for stream in range(5):
        odd = threes = 0
        for position, digit in enumerate(y[:, stream].tolist()):
            odd = (0 if position % TICK == 0 else odd) + digit % 2
            threes += digit == 3
            assert found[position, stream].tolist() == [odd, threes]


def test_streams_started_anywhere_give_the_same_digits_and_their_counts() -> None:
    x, y = torch.arange(100)[:, None], torch.arange(100) % 10
    data = DigitStreams(x, y, num_streams=3, seed=0)
    whole = [batch for batch, _ in zip(data.start(0), range(40), strict=False)]
    later = [batch for batch, _ in zip(data.start(21), range(19), strict=False)]
    torch.testing.assert_close(later, whole[21:], rtol=0, atol=0)
    digits = torch.stack([x[:, 0] % 10 for x, _ in whole[WINDOW : 2 * WINDOW]])
    targets = torch.stack([target for _, target in whole[WINDOW : 2 * WINDOW]])
    torch.testing.assert_close(targets, counts(digits))


@pytest.mark.experiment
@pytest.mark.parametrize("method", METHODS)
def test_method_takes_a_few_steps_and_says_what_it_was(method: str) -> None:
    run = measure(Job(method=method, seed=3, steps=2 * WINDOW))
    assert (run.method, run.seed, [each.step for each in run.errors]) == (method, 3, [2 * WINDOW])
    assert 0 < run.errors[0].fast < 4 and 0 < run.errors[0].slow < WINDOW
    sizes = {"synthetic": 64 * 65, "conditional": 64 * (64 + WINDOW + 1 + 1)}
    assert run.synthesizer_parameters == sizes.get(method, 0)


@pytest.mark.experiment
def test_only_who_waits_is_held_up_by_the_way_to_the_slow_network() -> None:
    found = {name: measure(Job(method=name, seed=0, steps=WINDOW)).digit_s for name in ("apart", "true", "synthetic")}
    held_up = {name: by_latency["8"] - by_latency["0"] for name, by_latency in found.items()}
    assert held_up["true"] == pytest.approx(2 * 8 / TICK, rel=0.05)
    assert held_up["apart"] < 0.2 and held_up["synthetic"] < 0.2


def run_of(method: str, seed: int, slow: float) -> Run:
    return Run(
        method=method,
        seed=seed,
        steps=2,
        errors=[Errors(step=1, fast=2.0, slow=2.0), Errors(step=2, fast=0.5, slow=slow)],
        guess=Errors(step=0, fast=1.0, slow=1.5),
        digit_s={"0": 1.0, "2": 2.0, "8": 5.0},
        synthesizer_parameters=1234,
        wall_s=1.0,
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )


def test_what_was_run_is_not_run_again() -> None:
    asked = jobs(Options(only=("true", "apart"), seeds=(0, 1)), [run_of("true", 0, 1.0)])
    assert [(job.method, job.seed) for job in asked] == [("apart", 0), ("true", 1), ("apart", 1)]
    with pytest.raises(ValueError, match="found nonsense"):
        jobs(Options(only=("nonsense",)), ())


def test_table_shows_means_and_what_was_not_run() -> None:
    counted = results.counted([run_of("true", 0, 9.0), run_of("true", 1, 1.2), run_of("true", 0, 1.0)])
    parts = table.render(counted)
    assert "| true gradient, waited for | 0.500 ± 0.000 | 1.100 ± 0.141 | 1,234 |" in parts["errors"]
    assert "| synthetic gradient | not run | not run | not run |" in parts["errors"]
    assert "| (the most frequent count) | 1.000 | 1.500 | |" in parts["errors"]
    assert "| true gradient, waited for | 2.000 | 1.100 |" in parts["curves"]
    assert "| true gradient, waited for | 1.00 | 2.00 | 5.00 |" in parts["time"]
    assert list(table.failures(counted))[1] == "true: needs 3 seeds, has 2"
    assert list(table.failures({})) == []
