"""Does the built-in configuration learn the digits?"""

from __future__ import annotations

from dataclasses import replace

import torch
from sklearn.datasets import load_digits

from pipeline import prepare, run_simulated
from pipeline.configuration.quickstart import digits, quickstart


def test_quickstart_reaches_its_accuracy_in_virtual_time() -> None:
    result = run_simulated(prepare(replace(quickstart(), executor="simulate", steps=500)))  # a third: enough for 0.95
    assert result.summary["num_stages"] == 4
    assert result.summary["test_accuracy"] >= 0.95
    assert all(stage["gradient_cosine"] > 0.05 for stage in result.summary["stages"][:-1])


def test_digits_are_those_that_scikit_learn_reads() -> None:
    images, labels = load_digits(return_X_y=True)
    data = digits()
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    found = torch.cat([data.train.x, data.test[0][0]]), torch.cat([data.train.target, data.test[0][1]])
    assert torch.equal(found[0], torch.tensor(images, dtype=torch.float32)[order] / 16.0)
    assert torch.equal(found[1], torch.tensor(labels)[order])


def test_digits_are_split_the_same_way_each_time_without_overlap() -> None:
    torch.rand(3)
    first, second = digits(), digits(batch_size=64)
    assert torch.equal(first.train.x, second.train.x) and torch.equal(first.test[0][1], second.test[0][1])
    assert len(first.train.x) == 1500 and len(first.test[0][0]) == 297
    assert first.train.batch_size == 32 and second.train.batch_size == 64
    assert first.train.x.min() == 0.0 and first.train.x.max() == 1.0
    rows = torch.cat([first.train.x, first.test[0][0]])
    assert len(rows.unique(dim=0)) == 1797
