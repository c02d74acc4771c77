"""Does a local loss give and learn what its papers say, written out in float64?"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import LocalLoss, MLPHead, Need, Signal
from dni.sources.similarity import SimilarityMatching

SGD = partial(torch.optim.SGD, lr=0.1)
TARGET = torch.tensor([0, 1, 2, 0, 1, 2, 2])


def _built(h: Tensor, *arguments: Any, **settings: Any) -> LocalLoss:
    source = LocalLoss(3, *arguments, **settings)
    source.build(h, generator=torch.Generator().manual_seed(1))
    return source


def _similarities(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    lengths = centred.square().sum(1).sqrt()
    return (centred @ centred.T) / lengths[:, None] / lengths[None, :]


def test_steps_are_those_of_decoupled_greedy_learning_written_out() -> None:
    """A layer and its head, each moved by the gradient of the head's cross entropy: the sum for the one, as all
    gradients at h are, and the mean for the other."""
    layer, twin = (nn.Linear(5, 4).double() for _ in range(2))
    twin.load_state_dict(layer.state_dict())
    head = nn.Linear(4, 3).double()
    source = _built(torch.zeros(7, 4, dtype=torch.float64), head, optimizer=SGD)
    both = torch.optim.SGD([*twin.parameters(), *head.parameters()], lr=0.1)
    for step in range(4):
        x = torch.randn(7, 5, dtype=torch.float64)
        both.zero_grad()
        F.cross_entropy(head(twin(x)), TARGET).backward()
        both.step()
        h, signal = layer(x), Signal(step=step, target=TARGET)
        gradient = source.estimate(h, signal)
        assert isinstance(gradient, Tensor)
        moves = torch.autograd.grad(h, list(layer.parameters()), gradient / 7)
        with torch.no_grad():
            for parameter, move in zip(layer.parameters(), moves, strict=True):
                parameter -= 0.1 * move
        source.learn(h, signal)
    torch.testing.assert_close(dict(layer.state_dict()), dict(twin.state_dict()))


def test_loss_is_the_mean_over_samples() -> None:
    h = torch.randn(7, 4)
    assert _built(h).learn(h, Signal(step=0, target=TARGET)) == pytest.approx(torch.tensor(3.0).log().item())


@pytest.mark.parametrize("shape", [(7, 4), (7, 5, 4, 4), (7, 2, 3, 3)], ids=["features", "images", "few channels"])
def test_predsim_is_its_formula_written_out(shape: tuple[int, ...]) -> None:
    h = torch.randn(shape, dtype=torch.float64)
    source = _built(h, similarity_weight=0.99)
    local: Any = copy.deepcopy(source.regression.networks[0])
    leaf = h.clone().requires_grad_()
    mapped = local.similarity.map(leaf)
    if len(shape) == 4:
        mapped = mapped.flatten(2).std(2) if shape[1] > 3 else mapped.flatten(1)
    wanted = _similarities(F.one_hot(TARGET, 3).double())
    loss = 0.99 * F.mse_loss(_similarities(mapped), wanted) + 0.01 * F.cross_entropy(local.labels.head(leaf), TARGET)
    estimate = source.estimate(h, Signal(step=0, target=TARGET))
    torch.testing.assert_close(estimate, torch.autograd.grad(7 * loss, leaf)[0])
    assert source.learn(h, Signal(step=0, target=TARGET)) == pytest.approx(loss.item())


def test_ends_of_the_similarity_weight_have_no_parameters_without_use() -> None:
    h = torch.randn(7, 4)
    predicting, matching = _built(h), _built(h, similarity_weight=1.0)
    assert {tuple(p.shape) for p in predicting.parameters()} == {(3, 4), (3,)}
    assert {tuple(p.shape) for p in matching.parameters()} == {(4, 4)}


def test_samples_that_are_all_zero_send_a_finite_gradient() -> None:
    for shape in ((7, 4), (7, 5, 4, 4)):
        h = torch.randn(shape)
        h[:3] = 0.0
        source = _built(h, similarity_weight=0.99)
        assert torch.isfinite(torch.as_tensor(source.learn(h, Signal(step=0, target=TARGET))))
        estimate = source.estimate(h, Signal(step=1, target=TARGET))
        assert isinstance(estimate, Tensor) and torch.isfinite(estimate).all()
        assert all(torch.isfinite(parameter).all() for parameter in source.parameters())


def test_similarity_of_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"serves an h of \(N, F\) or \(N, C, H, W\), got shape \(7, 3, 4\)"):
        SimilarityMatching(torch.randn(7, 3, 4), 3)


def test_local_loss_needs_the_labels_alone() -> None:
    assert LocalLoss.needs == LocalLoss.learns_from == Need.TARGET
    h = torch.randn(7, 4)
    with pytest.raises(ValueError, match="LocalLoss needs labels, and the signal of step 5 has no target"):
        _built(h).estimate(h, Signal(step=5))


def test_batch_norm_of_the_head_moves_only_when_it_learns() -> None:
    h = 3 + 2 * torch.randn(7, 4)
    source = _built(h, MLPHead(num_hidden=1))
    norm = next(module for module in source.modules() if isinstance(module, nn.BatchNorm1d))
    source.estimate(h, Signal(step=0, target=TARGET))
    assert norm.num_batches_tracked == 0
    source.learn(h, Signal(step=0, target=TARGET))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_similarity_weight_outside_0_to_1_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=rf"similarity_weight must lie in \[0, 1\], got {weight}"):
        LocalLoss(similarity_weight=weight)
