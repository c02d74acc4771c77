"""Do the labels stand beside h where they should?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dni import ConditionalSyntheticGradient, LabelContext, Signal

N, K = 4, 3
TARGET = torch.tensor([2, 0, 1, 2])
ONE_HOT = F.one_hot(TARGET, K).float()


def test_features_get_the_one_hot() -> None:
    assert torch.equal(LabelContext(K)(torch.randn(N, 5), TARGET), ONE_HOT)


def test_images_get_the_one_hot_as_constant_feature_maps() -> None:
    context = LabelContext(K)(torch.randn(N, 5, 2, 6), TARGET)
    assert torch.equal(context, ONE_HOT[:, :, None, None].expand(N, K, 2, 6))


def test_tokens_get_the_label_of_their_sample_at_every_token() -> None:
    context = LabelContext(K)(torch.randn(N, 7, 5), TARGET)
    assert torch.equal(context, ONE_HOT[:, None, :].expand(N, 7, K))


def test_tokens_get_their_own_labels_where_there_are_any() -> None:
    target = torch.randint(0, K, (N, 7))
    assert torch.equal(LabelContext(K)(torch.randn(N, 7, 5), target), F.one_hot(target, K).float())


def test_an_embedding_gives_each_token_the_row_of_its_label() -> None:
    labels, target = LabelContext(K, embedding_dim=6), torch.randint(0, K, (N, 7))
    assert labels.embedding is not None and labels.num_context == 6
    assert torch.equal(labels(torch.randn(N, 7, 5), target), labels.embedding.weight[target])


def test_an_embedding_learns_with_its_synthesizer(generator: torch.Generator) -> None:
    source = ConditionalSyntheticGradient(K, embedding_dim=6)
    h, target = torch.randn(N, 7, 5), torch.randint(0, K, (N, 7))
    source.build(h, generator=generator)
    table = next(value for name, value in source.named_parameters() if name.endswith("embedding.weight"))
    before = table.detach().clone()
    for step in range(2):  # at the first step the zero last layer lets nothing through to the table
        source.learn(h, Signal(step=step, target=target, gradient=torch.randn_like(h)))
    assert table.shape == (K, 6) and not torch.equal(table, before)


def test_the_context_has_the_dtype_of_h_and_takes_any_integer_labels() -> None:
    context = LabelContext(K)(torch.randn(N, 5, dtype=torch.float64), TARGET.to(torch.uint8))
    assert context.dtype == torch.float64 and torch.equal(context, ONE_HOT.double())


@pytest.mark.parametrize(("label", "found"), [(3, "0 to 3"), (-100, "-100 to 2")])
@pytest.mark.parametrize("embedding_dim", [None, 6])
def test_labels_outside_the_classes_are_refused_with_what_was_found(
    label: int, found: str, embedding_dim: int | None
) -> None:
    target = torch.tensor([0, label, 1, 2])
    with pytest.raises(ValueError, match=rf"lie in \[0, 3\), got {found} .*Set num_classes"):
        LabelContext(K, embedding_dim=embedding_dim)(torch.randn(N, 5), target)


@pytest.mark.parametrize(
    ("h_shape", "target"),
    [((N, 5), torch.zeros(N, 2).long()), ((N, 7, 5), torch.zeros(N, 5).long()), ((N, 5), TARGET[:3])],
)
def test_labels_that_do_not_match_h_are_refused(h_shape: tuple[int, ...], target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="one per sample"):
        LabelContext(K)(torch.randn(h_shape), target)


def test_labels_that_are_not_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be integers in \[0, 3\), got torch.float32"):
        LabelContext(K)(torch.randn(N, 5), ONE_HOT)


@pytest.mark.parametrize(("num_classes", "embedding_dim"), [(0, None), (3, 0)])
def test_sizes_below_one_are_refused(num_classes: int, embedding_dim: int | None) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LabelContext(num_classes, embedding_dim=embedding_dim)
