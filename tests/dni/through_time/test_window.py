"""Is a window pulled back through its own steps, and no further?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni.through_time.window import Window, begins_of, ends_of, run_windows

NEVER = torch.zeros(3, dtype=torch.bool)


def windows(core: nn.Module, x: Tensor, horizon: int, state: Tensor | None = None) -> list[Window]:
    ends = torch.zeros(-(-len(x) // horizon), 3, dtype=torch.bool)
    begins = NEVER if state is not None else ~NEVER
    return run_windows(
        core, x, lambda y, _: y.square().sum(), horizon=horizon, state=state, begins=begins, ends=ends, axis=1
    )


def test_windows_are_the_steps_of_the_span_in_order() -> None:
    core, x = nn.GRU(2, 4), torch.randn(5, 3, 2)
    made = windows(core, x, 2)
    torch.testing.assert_close(made[-1].end, core(x)[1])
    assert [window.start is None for window in made] == [True, False, False]


def test_used_and_bootstrap_are_pulled_back_separately_and_only_used_reaches_the_parameters() -> None:
    core, x, state = nn.GRU(2, 4), torch.randn(2, 3, 2), torch.randn(1, 3, 4)
    used, bootstrap = torch.randn(3, 4), torch.randn(3, 4)
    start = state.clone().requires_grad_()
    y, end = core(x, start)
    loss = y.square().sum()
    expected = [
        torch.autograd.grad([loss, end], start, [torch.ones(()), rows[None]], retain_graph=True)[0][0]
        for rows in (used, bootstrap)
    ]
    weight = next(core.parameters())
    (expected_weight,) = torch.autograd.grad([loss, end], weight, [torch.ones(()), used[None]])
    (window,) = windows(core, x, 2, state)
    found = window.pull_back(used, bootstrap)
    torch.testing.assert_close(list(found), expected)
    torch.testing.assert_close(weight.grad, expected_weight)


def test_without_a_bootstrap_of_its_own_both_are_the_same() -> None:
    (window,) = windows(nn.GRU(2, 4), torch.randn(2, 3, 2), 2, torch.randn(1, 3, 4))
    pulled, target = window.pull_back(torch.randn(3, 4), None)
    torch.testing.assert_close(pulled, target, rtol=0, atol=0)


def test_a_core_without_parameters_and_loss_has_nothing_to_pull_back() -> None:
    class Passing(nn.Module):
        def forward(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
            return x, x[-1]

    x = torch.randn(2, 3, 4)
    ends = torch.zeros(2, 3, dtype=torch.bool)
    made = run_windows(Passing(), x, lambda y, _: y.sum(), horizon=1, state=None, begins=~NEVER, ends=ends, axis=0)
    pulled, target = made[1].pull_back(torch.ones(3, 4), torch.zeros(3, 4))
    assert not pulled.any() and not target.any()


def test_who_begins_and_who_ends_is_said_for_each_window() -> None:
    x = torch.randn(5, 3, 2)
    assert begins_of(x, None).all() and not begins_of(x, NEVER).any()
    done = torch.tensor([True, False, True])
    assert ends_of(x, done, horizon=2).tolist() == [[False] * 3, [False] * 3, [True, False, True]]
    each = torch.tensor([[True, False, False], [False] * 3, [False] * 3])
    assert torch.equal(ends_of(x, each, horizon=2), each)


@pytest.mark.parametrize("done", [torch.zeros(3), torch.zeros(2, 3, dtype=torch.bool)])
def test_done_of_another_shape_or_dtype_is_refused(done: Tensor) -> None:
    with pytest.raises(ValueError, match=r"done must be bool of shape \(3,\), at the end of the span, or \(3, 3\)"):
        ends_of(torch.randn(5, 3, 2), done, horizon=2)
