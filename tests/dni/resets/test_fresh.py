"""Are fresh values, bit for bit, those that PyTorch's layers give themselves?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from dni import ContinuousConv, fresh_values
from pipeline.randomness.keyed import generator

KEYED = partial(generator, 5, step=0)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 3),
        nn.Linear(4, 3, bias=False).double(),
        nn.Conv1d(4, 6, 3, groups=2),
        nn.Conv2d(3, 5, 3),
        nn.ConvTranspose2d(3, 5, 3),
        nn.Embedding(5, 3, padding_idx=1),
        nn.BatchNorm2d(4),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_fresh_values_have_the_bits_of_reset_parameters(layer: nn.Module) -> None:
    with torch.no_grad():
        for value in (*layer.parameters(), *layer.buffers()):
            value.fill_(7)
    fresh = fresh_values(nn.Sequential(layer), KEYED)
    torch.default_generator.set_state(KEYED("0").get_state())
    layer.reset_parameters()  # type: ignore[operator]
    state = layer.state_dict()
    assert fresh.keys() == {f"0.{name}" for name in state}
    assert all(torch.equal(fresh[f"0.{name}"], value) for name, value in state.items())


def test_layers_draw_by_their_names_and_modules_may_draw_for_themselves() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), ContinuousConv(1, 2, 3))
    fresh = fresh_values(module, KEYED)
    assert not torch.equal(fresh["0.weight"], fresh["2.weight"])
    assert fresh.keys() == dict(module.named_parameters()).keys()
    twin = ContinuousConv(1, 2, 3, generator=KEYED("3"))
    assert all(torch.equal(fresh[f"3.{name}"], value) for name, value in twin.named_parameters())


def test_layer_whose_initial_values_are_not_known_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"layer '1', a GRU, must be of a kind .* and holds weight_ih_l0"):
        fresh_values(nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2)), KEYED)
