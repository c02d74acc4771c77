"""Are messages of before a change read rightly after it?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import NEW, Origin, translate
from tests.dni.structure.networks import changed, hidden_of, trained

ORIGIN = Origin(num_old=3, sources=(2, NEW, 0, 0), scale=(1.0, 1.0, 0.25, 0.75))
ORIGINS = {
    "widen": Origin.duplicate([1, 1, 3], num_old=4),
    "keep": Origin.keep([3, 1], num_old=4),
    "grow": Origin.append(2, num_old=4),
}


def test_activations_are_copied_and_gradients_shared() -> None:
    h = torch.tensor([[1.0, 2.0, 4.0]])
    assert translate(h, ORIGIN, holds="activation").tolist() == [[4.0, 0.0, 1.0, 1.0]]
    assert translate(h, ORIGIN, holds="gradient").tolist() == [[4.0, 0.0, 0.25, 0.75]]
    tokens = torch.randn(2, 5, 3)
    assert torch.equal(translate(tokens, ORIGIN, holds="activation", axis=-1)[..., 0], tokens[..., 2])


@pytest.mark.parametrize("change", ORIGINS)
def test_a_translated_message_is_what_the_changed_network_would_have_sent(change: str) -> None:
    network, x = trained("mlp")
    origin = ORIGINS[change]
    if change == "keep":
        network[3].weight.data[:, [0, 2]] = 0  # as if the others had been silent
    before, after = _messages(network, x), _messages(changed(network, hidden_of(network), origin), x)
    old = [unit for unit, source in enumerate(origin.sources) if source != NEW]
    for holds, sent, due in zip(("activation", "gradient"), before, after, strict=True):
        found = translate(sent, origin, holds=holds)
        assert isinstance(found, Tensor) and found.shape == due.shape
        torch.testing.assert_close(found[:, old], due[:, old], rtol=0, atol=1e-12)


def test_members_that_are_no_floats_pass_and_several_floats_are_refused() -> None:
    mask, h = torch.arange(2), torch.randn(2, 3)
    found = translate((mask, None, h), ORIGIN, holds="gradient")
    assert isinstance(found, tuple) and found[0] is mask and found[1] is None
    assert found[2] is not None and found[2].shape == (2, 4)
    with pytest.raises(ValueError, match="one floating-point tensor crosses, got 2"):
        translate((h, h), ORIGIN, holds="gradient")
    with pytest.raises(ValueError, match="holds an 'activation' or a 'gradient', got 'value'"):
        translate(h, ORIGIN, holds="value")  # type: ignore[arg-type]


def _messages(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """h behind layer 2, and dL/dh."""
    assert isinstance(network, nn.Sequential)
    h = network[:3](x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network[3:](h).square().sum(), h)
    return h.detach(), gradient
