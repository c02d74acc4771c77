"""Are slices what one gets by asking at every point, and is an implied loss the integral of its gradient?"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from dni.landscape.direction import Point, between, filter_normalized, random_direction
from dni.landscape.network_loss import NetworkLoss
from dni.landscape.slice import Implied, slice_line, slice_plane
from tests.dni.landscape.networks import batches, loss_of, stages, unchanged

STEPS = (-1.0, -0.25, 0.0, 0.5, 2.0)


def _keyed(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(name))


def test_slices_are_the_loss_of_networks_moved_by_hand() -> None:
    net, given = nn.Sequential(*stages()), batches(6)
    with unchanged(net):
        loss = NetworkLoss(net, given, nn.CrossEntropyLoss())
        first = filter_normalized(random_direction(loss.start, _keyed), loss.start)
        second = {name: -own for name, own in loss.gradient(loss.start).items() if name.startswith("1.")}
        line = slice_line({"true": loss}, loss.start, first, steps=STEPS)
        plane = slice_plane({"true": loss}, loss.start, (first, second), steps=(STEPS, (0.0, 1.0, 3.0)))
    assert line.complete and plane.complete and line.steps == (STEPS,)
    twin = copy.deepcopy(net).eval()
    for row, a in enumerate(STEPS):
        for column, b in enumerate(plane.steps[1]):
            for name, parameter in twin.named_parameters():
                parameter.data = loss.start[name] + a * first[name] + b * second.get(name, torch.zeros(()))
            expected = loss_of(twin, given).item()
            assert float(plane.values["true"][row, column]) == pytest.approx(expected, abs=1e-12)
            if b == 0.0:
                assert float(line.values["true"][row]) == pytest.approx(expected, abs=1e-12)


def test_interpolation_leads_from_one_checkpoint_to_the_other() -> None:
    given = batches(6)
    losses = [NetworkLoss(nn.Sequential(*stages()), given, nn.CrossEntropyLoss()) for _ in range(2)]
    start, end = (loss.start for loss in losses)
    found = slice_line({"true": losses[0]}, start, between(start, end), steps=(1.0, 0.5, 0.0)).values["true"]
    assert float(found[2]) == losses[0](start) and float(found[0]) == pytest.approx(losses[1](end), abs=1e-12)
    middle = {name: (start[name] + end[name]) / 2 for name in start}
    assert float(found[1]) == pytest.approx(losses[0](middle), abs=1e-12)


def test_true_gradient_implies_the_true_loss() -> None:
    loss = NetworkLoss(nn.Sequential(*stages()), batches(6), nn.CrossEntropyLoss())
    start = loss.start
    first, second = (
        filter_normalized(random_direction(start, key), start) for key in (_keyed, lambda name: _keyed(name + "x"))
    )
    losses = {"true": loss, "implied": Implied(field=loss.gradient, num_nodes=12)}
    line = slice_line(losses, start, first, steps=STEPS)
    torch.testing.assert_close(line.values["implied"], line.values["true"] - loss(start), rtol=0, atol=1e-9)
    plane = slice_plane(losses, start, (first, second), steps=((-0.5, 1.0), (0.0, 0.5)))
    torch.testing.assert_close(plane.values["implied"], plane.values["true"] - loss(start), rtol=0, atol=1e-6)


def test_linear_field_implies_its_quadratic_exactly_and_one_that_turns_is_integrated_along_the_ray() -> None:
    """In a layer's output: a linear synthesizer δ = h A, the same move for all samples; A is not symmetric."""
    h, a = torch.randn(7, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)

    def synthesizer(point: Point) -> dict[str, Tensor]:
        return {"h": point["h"] @ a / len(h)}

    d, e = ({"h": torch.randn(3, dtype=torch.float64).expand(7, 3)} for _ in range(2))
    implied = {"implied": Implied(field=synthesizer, num_nodes=1)}
    line = slice_line(implied, {"h": h}, d, steps=STEPS).values["implied"]
    plane = slice_plane(implied, {"h": h}, (d, e), steps=(STEPS, STEPS)).values["implied"]

    def quadratic(move: Tensor) -> float:
        return float((h @ a * move).sum() / 7 + 0.5 * (move @ a * move).sum() / 7)

    assert line.tolist() == pytest.approx([quadratic(step * d["h"]) for step in STEPS], abs=1e-12)
    by_hand = [[quadratic(p * d["h"] + q * e["h"]) for q in STEPS] for p in STEPS]
    torch.testing.assert_close(plane, torch.tensor(by_hand, dtype=torch.float64), rtol=0, atol=1e-12)


def test_slice_stops_when_told_and_keeps_what_it_has_nearest_to_the_start_first() -> None:
    point, told = {"w": torch.zeros(2)}, []

    def twice(done: int, total: int) -> bool:
        told.append((done, total))
        return done < 2

    def loss(at: Point) -> float:
        return float(at["w"].sum())

    line = slice_line({"w": loss}, point, {"w": torch.ones(2)}, steps=STEPS, progress=twice)
    assert told == [(1, 5), (2, 5)] and not line.complete
    assert line.values["w"].isnan().tolist() == [True, False, False, True, True] and float(line.values["w"][1]) == -0.5
    plane = slice_plane(
        {"w": loss}, point, ({"w": torch.ones(2)}, {"w": torch.ones(2)}), steps=((0.0, 1.0), (0.0, 9.0)), progress=twice
    )
    assert not plane.complete and int(plane.values["w"].isnan().sum()) == 2 and float(plane.values["w"][0, 0]) == 0.0
    assert not point["w"].any()


def test_bad_slices_are_refused_by_name() -> None:
    point, loss = {"w": torch.zeros(2), "n": torch.ones(1, dtype=torch.int64)}, {"w": lambda at: 0.0}
    with pytest.raises(ValueError, match=r"losses \[\]"):
        slice_line({}, point, {"w": torch.ones(2)}, steps=STEPS)
    with pytest.raises(ValueError, match="steps of a slice must be finite"):
        slice_line(loss, point, {"w": torch.ones(2)}, steps=(math.nan,))
    with pytest.raises(ValueError, match=r"got \(2,\) for v, where the point has none of that name"):
        slice_line(loss, point, {"v": torch.ones(2)}, steps=STEPS)
    with pytest.raises(ValueError, match=r"for n, where the point has torch\.int64"):
        slice_line(loss, point, {"n": torch.ones(1)}, steps=STEPS)
    with pytest.raises(ValueError, match="must move something"):
        slice_line(loss, point, {}, steps=STEPS)
    with pytest.raises(ValueError, match="at least 1 node, got 0"):
        Implied(field=lambda at: at, num_nodes=0)
