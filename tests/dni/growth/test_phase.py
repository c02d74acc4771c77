"""Does a phase open its gates step by step, go on where it was, and leave nothing behind?"""

from __future__ import annotations

import copy
import json

import pytest
import torch

from dni import CosineRamp, LinearRamp, LossRamp, Origin, Phase, fit_gates_
from tests.dni.structure.networks import trained


def _phase(num_steps: int = 4) -> Phase:
    return Phase(event="grow", gates={"3": (1, 3)}, ramp=LinearRamp(num_steps=num_steps))


def test_phase_opens_its_gates_and_leaves_the_network_without_them() -> None:
    network, x = trained("conv2d")
    plain, phase = copy.deepcopy(network), _phase()
    for alpha in (0, 0.25, 0.5, 0.75, 1):
        assert phase.alpha == alpha and phase.is_over == (alpha == 1)
        phase.open_(network)
        scaled = plain[:3](x) * torch.tensor([1, alpha, 1, alpha], dtype=x.dtype).view(-1, 1, 1)
        assert torch.equal(network(x), plain[3](scaled))
        assert ("3.unit_gate" in network.state_dict()) == (alpha < 1)
        phase = phase.advanced(None)
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_two_phases_at_one_layer_do_not_touch_each_other() -> None:
    network, _ = trained("mlp")
    early, late = _phase(2), Phase(event="again", gates={"3": (0,)}, ramp=CosineRamp(num_steps=4))
    early = early.advanced(1.0)
    early.open_(network)
    late.open_(network)
    assert network[3].unit_gate.tolist() == [0, 0.5, 1, 0.5]
    early.advanced(1.0).open_(network)
    assert network[3].unit_gate.tolist() == [0, 1, 1, 1]


def test_resumed_phase_goes_on_where_it_was() -> None:
    network, x = trained("mlp")
    fresh, phase = copy.deepcopy(network), Phase(event="grow", gates={"3": (1, 3)}, ramp=LossRamp(num_steps=5))
    for loss in (None, 2.0, 1.5):
        phase = phase.advanced(loss)
    phase.open_(network)
    saved, written = network.state_dict(), json.dumps(phase.to_json())
    fit_gates_(fresh, saved.keys())
    fresh.load_state_dict(saved)
    again = Phase.from_json(json.loads(written))
    assert again == phase and again.alpha == 0.4 and torch.equal(fresh(x), network(x))
    for loss in (9.0, 0.5):
        phase, again = phase.advanced(loss), again.advanced(loss)
        phase.open_(network)
        again.open_(fresh)
        assert torch.equal(fresh[3].unit_gate, network[3].unit_gate)


def test_phase_follows_the_entries_that_it_gates() -> None:
    phase = _phase().advanced(None)
    assert phase.following("0", Origin.keep([0], num_old=4)) == phase
    copied = phase.following("3", Origin.duplicate([3, 0], num_old=4))
    assert copied.gates == {"3": (1, 3, 4)} and copied.progress == phase.progress
    assert phase.following("3", Origin.keep([3, 0], num_old=4)).gates == {"3": (0,)}
    gone = phase.following("3", Origin.keep([0, 2], num_old=4))
    assert gone.gates == {} and gone.is_over and not phase.is_over


def test_phase_of_a_layer_that_is_not_there_is_refused() -> None:
    network, _ = trained("mlp")
    with pytest.raises(ValueError, match="event grow is being phased in at 3, but the module has no such layer"):
        _phase().open_(network[:2])
