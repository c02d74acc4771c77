"""Do activations and gradients that are in flight follow changes of the units at a boundary, over generations?"""

from __future__ import annotations

import pytest
import torch

from dni import NEW, Origin
from pipeline.errors import RunError
from pipeline.learners.boundary import Boundary

COPIED = Origin(num_old=3, sources=(2, 0, 0, NEW), scale=(1.0, 0.25, 0.75, 1.0))
CUT = Origin.keep((1, 2, 3), num_old=4)
GROWN = Origin(num_old=3, sources=(0, 1, 2, NEW, NEW), scale=(1.0,) * 5)


def _boundary(generation: int = 0, *, axis: int = 1) -> Boundary:
    """Units 0, 1, 2; then 2, 0, 0, new; then 0, 0, new; then 0, 0, new and two more."""
    boundary = Boundary(generation)
    for origin in (COPIED, CUT, GROWN):
        boundary.change(origin, axis=axis)
    return boundary


def test_activations_and_gradients_follow_all_generations_since_theirs() -> None:
    h = torch.tensor([[1.0, 2.0, 3.0]])
    boundary = _boundary()
    expected = {
        (0, 1): ([3.0, 1.0, 1.0, 0.0], [3.0, 0.25, 0.75, 0.0]),
        (0, 2): ([1.0, 1.0, 0.0], [0.25, 0.75, 0.0]),
        (0, None): ([1.0, 1.0, 0.0, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0, 0.0]),
        (2, None): ([1.0, 2.0, 3.0, 0.0, 0.0], [1.0, 2.0, 3.0, 0.0, 0.0]),
    }
    for (since, until), (activation, gradient) in expected.items():
        found = boundary.translate(h, since, until=until, holds="activation")
        assert isinstance(found, torch.Tensor) and found.tolist() == [activation]
        found = boundary.translate(h, since, until=until, holds="gradient")
        assert isinstance(found, torch.Tensor) and found.tolist() == [gradient]
    assert boundary.translate(h, 3, holds="activation") is not h
    assert torch.equal(boundary.translate(h, 3, holds="activation"), h)  # type: ignore[arg-type]


def test_gradient_of_what_was_copied_adds_up_to_that_of_its_source_in_any_generation() -> None:
    """A naive twin: the stage above reads each copy by its share, so dL/dh of the old units is what comes of both."""
    gradient = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    boundary = Boundary()
    for _ in range(2):
        boundary.change(Origin.repeat(2, num_old=3 * 2**boundary.generation), axis=1)
    found = boundary.translate(gradient, 0, holds="gradient")
    assert isinstance(found, torch.Tensor) and found.shape == (1, 12)
    index = boundary.translate(torch.arange(3.0)[None] + 1, 0, holds="activation")
    assert isinstance(index, torch.Tensor)
    sums = torch.stack([found[index == unit + 1].sum() for unit in range(3)])
    torch.testing.assert_close(sums, gradient[0], rtol=1e-12, atol=0)


def test_units_of_tokens_follow_along_the_last_axis_and_integers_beside_h_stay() -> None:
    h, labels = torch.randn(2, 5, 3), torch.arange(2)
    found = _boundary(axis=-1).translate((h, labels), 0, holds="activation")
    assert isinstance(found, tuple) and isinstance(found[0], torch.Tensor) and found[1] is not None
    assert torch.equal(found[0][..., :2], h[..., [0, 0]]) and not found[0][..., 2:].any()
    assert torch.equal(found[1], labels)


def test_generations_go_on_from_those_before_and_a_copy_changes_by_itself() -> None:
    boundary = _boundary(generation=4)
    assert boundary.generation == 7
    other = boundary.copy()
    other.change(Origin.keep((0,), num_old=5), axis=1)
    assert (other.generation, boundary.generation) == (8, 7)
    found = boundary.translate(torch.ones(2, 3), 4, holds="activation")
    assert isinstance(found, torch.Tensor) and found.shape == (2, 5)


@pytest.mark.parametrize(("since", "until"), [(3, None), (6, 5), (8, None), (6, 8)])
def test_generation_that_is_not_known_is_refused(since: int, until: int | None) -> None:
    boundary = _boundary(generation=4)
    with pytest.raises(RunError, match=rf"of generation {since} .* knows generations 4 to 7"):
        boundary.translate(torch.ones(2, 4), since, until=until, holds="gradient")


def test_message_of_another_generation_than_that_of_today_is_refused_by_place() -> None:
    boundary = _boundary()
    boundary.check(3, where="stage 2, step 5")
    for generation in (2, 4):
        message = f"stage 2, step 5: what came is of generation {generation} of the boundary's units, this side is at 3"
        with pytest.raises(RunError, match=message):
            boundary.check(generation, where="stage 2, step 5")
