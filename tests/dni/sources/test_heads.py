"""Do heads read the labels off every kind of output, and start by saying nothing?

Letters: N samples, T tokens, C channels, F features, K classes.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import ConvolutionalHead, LinearHead, MLPHead
from dni.sources.heads import LabelLoss

OUTPUTS = {"features": (6, 5), "tokens": (6, 3, 5), "images": (6, 4, 9, 7)}
HEADS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "linear": ("linear", tuple(OUTPUTS)),
    "mlp": ("mlp", tuple(OUTPUTS)),
    "mlp without batch norm": (MLPHead(num_hidden=1, width=8, batch_norm=False), tuple(OUTPUTS)),
    "convolutional": ("convolutional", ("images",)),
    "convolutional without batch norm": (ConvolutionalHead(mlp=MLPHead(batch_norm=False)), ("images",)),
}
TARGET = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (_, kinds) in HEADS.items() for kind in kinds])
def test_new_head_holds_all_classes_for_equally_likely_and_sends_no_gradient(name: str, kind: str) -> None:
    h = torch.randn(OUTPUTS[kind], dtype=torch.float64)
    labels = LabelLoss(HEADS[name][0], h, num_classes=3).double()
    torch.testing.assert_close(labels.loss(h, TARGET), 6 * torch.tensor(3.0, dtype=torch.float64).log())
    assert labels(h, TARGET).shape == h.shape and not labels(h, TARGET).any()


def _with_weights(layer: nn.Linear) -> nn.Linear:
    nn.init.normal_(layer.weight)
    return layer


def test_loss_and_gradient_are_those_of_a_head_written_out() -> None:
    h = torch.randn(6, 5, dtype=torch.float64)
    head = _with_weights(nn.Linear(5, 3).double())
    labels = LabelLoss(head, h, num_classes=3)
    z = h @ head.weight.T + head.bias
    torch.testing.assert_close(labels.loss(h, TARGET), -torch.log_softmax(z, 1)[range(6), TARGET].sum())
    torch.testing.assert_close(
        labels(h, TARGET).detach(), ((torch.softmax(z, 1) - F.one_hot(TARGET, 3)) @ head.weight).detach()
    )


def test_image_is_pooled_flattened_and_mapped() -> None:
    h = torch.randn(6, 4, 8, 8)
    labels = LabelLoss(LinearHead(pool=2), h, num_classes=3)
    linear = next(module for module in labels.modules() if isinstance(module, nn.Linear))
    _with_weights(linear)
    torch.testing.assert_close(labels.head(h), linear(F.avg_pool2d(h, 4).flatten(1)))


def test_token_labels_are_averaged_over_tokens_and_one_label_is_that_of_the_mean_logits() -> None:
    h = torch.randn(6, 4, 5, dtype=torch.float64)
    head = _with_weights(nn.Linear(5, 3).double())
    labels = LabelLoss(head, h, num_classes=3)
    per_token = torch.randint(3, (6, 4))
    each = F.cross_entropy(head(h).transpose(1, 2), per_token, reduction="none")
    torch.testing.assert_close(labels.loss(h, per_token), each.mean(1).sum())
    torch.testing.assert_close(labels.loss(h, TARGET), F.cross_entropy(head(h).mean(1), TARGET, reduction="sum"))


def test_gradient_of_one_sample_does_not_depend_on_the_others() -> None:
    h = torch.randn(6, 5)
    labels = LabelLoss(_with_weights(nn.Linear(5, 3)), h, num_classes=3)
    torch.testing.assert_close(labels(h, TARGET)[:2], labels(h[:2], TARGET[:2]))


def test_module_of_the_users_own_is_copied() -> None:
    own = nn.Linear(5, 3)
    assert LabelLoss(own, torch.randn(6, 5), num_classes=3).head is not own


@pytest.mark.parametrize(
    ("head", "shape", "message"),
    [
        ("cubic", (6, 5), "a head's name must be 'linear', 'mlp' or 'convolutional', got 'cubic'"),
        ("convolutional", (6, 5), r"convolutional head serves an h of \(N, C, H, W\), got shape \(6, 5\)"),
        ("linear", (6,), r"a head serves an h of .* got shape \(6,\)"),
    ],
)
def test_head_that_cannot_serve_an_output_is_refused(head: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelLoss(head, torch.randn(shape), num_classes=3)
    with pytest.raises(TypeError, match="a head must be a name, a module, or a function"):
        LabelLoss(lambda h, num_classes: 3, torch.randn(6, 5), num_classes=3)  # type: ignore[arg-type, return-value]


def test_logits_of_another_number_of_classes_are_refused() -> None:
    h = torch.randn(6, 5)
    with pytest.raises(ValueError, match=r"must give 3 logits for each label of shape \(6,\), got \(6, 4\)"):
        LabelLoss(nn.Linear(5, 4), h, num_classes=3).loss(h, TARGET)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 0 to 2"):
        LabelLoss("linear", h, num_classes=2).loss(h, TARGET)


def test_sizes_below_1_are_refused() -> None:
    for make in (
        lambda: LinearHead(pool=0),
        lambda: MLPHead(num_hidden=0),
        lambda: MLPHead(width=0),
        lambda: ConvolutionalHead(reduce=0),
        lambda: LabelLoss("linear", torch.randn(6, 5), num_classes=0),
    ):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            make()


def test_dtype_and_integer_labels_of_any_width_are_served() -> None:
    h: Tensor = torch.randn(6, 5)
    labels = LabelLoss("linear", h, num_classes=3)
    assert torch.equal(labels.loss(h, TARGET.int()), labels.loss(h, TARGET))
