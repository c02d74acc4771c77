"""Do new units leave the function as it is, and add as much as alpha says?"""

from __future__ import annotations

import pytest
import torch

from dni import append_units, grow
from tests.dni.structure.networks import NETWORKS, hidden_of, rebuilt, trained


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "layer_norm"])
def test_growth_with_outgoing_weights_of_zero_keeps_the_function(name: str, generator: torch.Generator) -> None:
    network, x = trained(name)
    hidden = hidden_of(network)
    resized = grow(hidden, 2, generator=generator)
    wide = rebuilt(network, resized)
    torch.testing.assert_close(wide(x), network(x), rtol=0, atol=1e-12)
    weight = resized.tensors["0.weight"]
    assert torch.equal(weight[:4], hidden.tensors["0.weight"].tensor)
    bound = weight[0].numel() ** -0.5
    assert 0.3 * bound < float(weight[4:].abs().mean()) and float(weight[4:].abs().max()) <= bound
    wide(x).square().sum().backward()
    incoming, outgoing = wide.get_parameter("0.weight").grad, wide.get_parameter("3.weight").grad
    assert incoming is not None and outgoing is not None
    assert not incoming[4:].any() and outgoing.unflatten(1, (6, -1))[:, 4:].any(), "what is put out learns first"


def test_alpha_scales_what_new_units_add(generator: torch.Generator) -> None:
    network, x = trained("mlp")
    hidden, state = hidden_of(network), generator.get_state()
    added = []
    for alpha in (0.25, 1.0):
        resized = grow(hidden, 3, generator=generator.set_state(state), alpha=alpha)
        added.append(rebuilt(network, resized)(x) - network(x))
    torch.testing.assert_close(added[0], 0.25 * added[1], rtol=0, atol=1e-12)
    assert added[1].abs().max() > 1e-2


def test_new_units_that_are_not_whole_are_refused(generator: torch.Generator) -> None:
    hidden = hidden_of(trained("mlp")[0])
    with pytest.raises(ValueError, match=r"alpha, .* must lie in \[0, 1\], got 1\.5"):
        grow(hidden, 1, generator=generator, alpha=1.5)
    with pytest.raises(ValueError, match=r"need values of 0\.bias, 0\.weight, 3\.weight, .* got 0\.weight"):
        append_units(hidden, 1, {"0.weight": torch.ones(1, 5)})
    with pytest.raises(ValueError, match="LayerNorm takes its statistics over all units"):
        grow(hidden_of(trained("layer_norm")[0]), 1, generator=generator)
