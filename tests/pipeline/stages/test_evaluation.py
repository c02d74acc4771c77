"""Is the result of an evaluation that of all samples together?"""

from __future__ import annotations

import pytest
import torch

from pipeline.stages.evaluation import Tally


def test_batches_of_different_sizes_count_by_their_samples() -> None:
    tally = Tally()
    logits = torch.eye(3)
    tally.add(logits, torch.tensor([0, 1, 0]), loss_sum=3.0)
    tally.add(logits[:1], torch.tensor([0]), loss_sum=5.0)
    assert tally.scalars() == {"test_loss": 2.0, "test_accuracy": 0.75}


def test_accuracy_of_token_labels_is_that_of_the_tokens() -> None:
    tally = Tally()
    logits = torch.zeros(2, 3, 4)  # (N, C, T)
    logits[:, 1] = 1.0
    tally.add(logits, torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]), loss_sum=2.0)
    assert tally.scalars() == {"test_loss": 1.0, "test_accuracy": pytest.approx(5 / 8)}


@pytest.mark.parametrize("target", [None, torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long)])
def test_accuracy_is_left_out_where_it_means_nothing(target: torch.Tensor | None) -> None:
    tally = Tally()
    tally.add(torch.zeros(2, 3), target, loss_sum=1.0)
    assert tally.scalars() == {"test_loss": 0.5}


def test_accuracy_is_left_out_where_classes_do_not_stand_on_the_second_axis() -> None:
    tally = Tally()
    tally.add(torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.long), loss_sum=1.0)  # (N, T, C)
    assert tally.scalars() == {"test_loss": 0.5}


def test_output_of_several_members_is_judged_by_the_first() -> None:
    tally = Tally()
    tally.add((torch.eye(2), torch.zeros(2)), torch.tensor([0, 0]), loss_sum=0.0)
    assert tally.scalars()["test_accuracy"] == 0.5
