"""How does a recurrent network learn from what lies beyond its truncation?

Letters: T steps in a window, K windows in a span, N samples, S numbers of a sample's state (`recurrent_state`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dni.members import Members, carriers
from dni.schedules.schedule import CONSTANT, Schedule
from dni.sources.regression import ADAM, OptimizerFactory, Regression
from dni.sources.synthesizers import Synthesizer, make_synthesizer
from dni.through_time.recurrent_state import begin_anew, find_sample_axis
from dni.through_time.window import LossOfSteps, Window, begins_of, ends_of, run_windows

__all__ = ["RecurrentDNI", "Span"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """What came of K windows in a row."""

    loss: float
    """The loss of the K windows, per sample."""
    synthesizer_loss: float
    """Squared error of the synthesizer, summed over the state, mean over what it learned from; 0: from nothing."""
    auxiliary_loss: float
    """The same of the auxiliary task."""
    synthetic: Tensor
    """(K, N, S): the gradient predicted at the end of each window; zero where the sequence ends."""
    targets: Tensor
    """(K, N, S): the bootstrapped target at the start of each window; zero where a sequence begins there, because
    nothing comes before it that could learn from it."""


class RecurrentDNI(nn.Module):
    """Truncated backpropagation through time with a synthetic gradient at the end of each window.

    With s_j the state at boundary j, L_j the loss of the window from s_j to s_{j+1}, J_j = ds_{j+1}/ds_j and M the
    synthesizer, boundary j has

        ĝ_j = M(s_j), and exactly 0 where the sequence ends
        u_j = λ U_j + (1 - λ) α ĝ_j,    U_j = dL_j/ds_j + u_{j+1} J_j        what the parameters learn from
        t_j = λ G_j + (1 - λ) ĝ_j,      G_j = dL_j/ds_j + γ t_{j+1} J_j      what the synthesizer learns from

    The window that ends in s_j pulls u_j back together with its own loss; M is fitted to G_j, and to 0 where a sequence
    ends. α is `injection`, γ `discount`, λ `bp_lambda`. At the last boundary of a span there is no later window yet:
    u = α ĝ and t = ĝ. λ = 0 is the paper's DNI; λ = 1 is backpropagation through the span with ĝ at its end.

    The auxiliary task predicts at s_j the ĝ_{j+1} of the next boundary, and its squared error is one more loss of the
    window that ends in s_j: so a window learns from what happens up to 2T after its first step.

    The weights stay as they are within a span, because an earlier window's graph is of the weights it ran with. So
    λ and the auxiliary task reach within a span only, and have no effect on the parameters in one of a single window.
    K = 1 is the paper's online learning; a whole sequence can be a span.

    Source: Jaderberg et al. 2017 (arXiv 1608.05343), section 2.2 and supplement A. Differs: M sees the boundary's state
    and not the input after it; gradients are of the loss summed over samples; the factor on ĝ and the discount are two
    knobs; supplement A's mixture is used as the target only once it has been pulled back (with λ = 0 it would be ĝ
    itself); states where sequences end are fitted to 0.

        learner = RecurrentDNI(model, horizon=8)
        for x, targets in spans:
            optimizer.zero_grad()
            learner.learn(x, lambda y, steps: F.cross_entropy(y.mT, targets[steps], reduction="sum"))
            for parameter in model.parameters():
                parameter.grad /= x.shape[1]
            optimizer.step()

    Args:
        core: called as core(x, state) with x (steps, N, ...) and None or a state; returns the outputs of all steps and
            the state after the last: torch's RNN, GRU and LSTM, `Unrolled(cell)`, or a module around one of them that
            also embeds x and reads y out. It is part of the learner's `state_dict`; its optimiser is the caller's, and
            is of core.parameters(): the learner's own include M's, which have theirs.
        synthesizer: M, as for `SyntheticGradient`, on rows (N, S).
        horizon: T, steps in a window; the last window of a span may be shorter.
        injection: α, by what ĝ is multiplied before a window learns from it; the paper's is 0.1. 0: M learns and does
            not act. Or a function of the number of spans so far, such as `InTurn`: real and synthetic gradients take
            turns, and M learns all the time.
        discount: γ, by what a boundary's gradient is multiplied in the target of the boundary before, 0 to 1.
        bp_lambda: λ, 0 to 1.
        auxiliary: weight of the auxiliary task in the loss; 0: there is none.
        optimizer: makes the optimisers of M and of the auxiliary task's network.
        schedule: factor of their learning rates, as a function of the number of spans so far.
        seed: of the initial weights of both networks.
        sample_axis: axis of the samples in the state's members; None: 1 if the core holds torch's RNN, GRU or LSTM,
            else 0.

    Raises:
        ValueError: a knob outside its range, or a core with batch_first; at `learn`, if x, `done`, the loss or the
            state do not have the shapes above.
    """

    def __init__(
        self,
        core: nn.Module,
        synthesizer: Synthesizer = "linear",
        *,
        horizon: int,
        injection: float | Schedule = 0.1,
        discount: float = 1.0,
        bp_lambda: float = 0.0,
        auxiliary: float = 0.0,
        optimizer: OptimizerFactory = ADAM,
        schedule: Schedule = CONSTANT,
        seed: int = 0,
        sample_axis: int | None = None,
    ) -> None:
        super().__init__()
        _check_knobs(horizon=horizon, discount=discount, bp_lambda=bp_lambda, auxiliary=auxiliary)
        if not callable(injection):
            _check_injection(injection)
        _check_time_is_first(core)
        self.core = core
        self.horizon, self.injection, self.discount = horizon, injection, discount
        self.bp_lambda, self.auxiliary = bp_lambda, auxiliary
        make = partial(make_synthesizer, synthesizer, num_context=0)
        self.synthesizer = Regression(make, optimizer=optimizer, schedule=schedule)
        self.predictor = Regression(make, optimizer=optimizer, schedule=schedule)
        """Of the auxiliary task; never built without it."""
        self.num_spans = 0
        """Spans learned from so far."""
        self.state: Members | None = None
        """Where the next span starts, without a graph; None: at the beginning of sequences."""
        self._begins: Tensor | None = None
        self._seed = seed
        self._axis = find_sample_axis(core) if sample_axis is None else sample_axis

    def begin(self) -> None:
        """Forget the carried state: the next span starts at the beginning of its sequences."""
        self.state = self._begins = None

    def learn(self, x: Tensor, loss_of: LossOfSteps, *, done: Tensor | None = None) -> Span:
        """Run the core over a span, add to every `.grad`, let the synthesizer learn, and carry the state on.

        The gradients in `.grad` are of the loss summed over samples: divide them once by N before the optimiser's step.

        Args:
            x: inputs of the span, (steps, N, ...), without a graph; K is the steps divided by T, rounded up.
            loss_of: the loss of a window; parameters that it uses receive their gradients too.
            done: (N,) bool, whose sequences end with the span, or (K, N) bool, with each of its windows. Their next
                window starts from zeros. None: no sequence ends.
        """
        injection = self._injection_now()
        windows = run_windows(
            self.core,
            x,
            loss_of,
            horizon=self.horizon,
            state=self.state,
            begins=begins_of(x, self._begins),
            ends=ends_of(x, done, horizon=self.horizon),
            axis=self._axis,
        )
        synthetic = self._predict(windows)
        targets = self._backward(windows, synthetic, injection=injection)
        source_loss, auxiliary_loss = self._fit(windows, synthetic, targets)
        last = windows[-1]
        self.state, self._begins = begin_anew(last.end, last.ends, self._axis), last.ends
        self.num_spans += 1
        return Span(
            loss=sum(window.loss.item() for window in windows) / x.shape[1],
            synthesizer_loss=source_loss,
            auxiliary_loss=auxiliary_loss,
            synthetic=torch.stack(synthetic),
            targets=torch.stack(targets),
        )

    def get_extra_state(self) -> dict[str, Any]:
        return {"num_spans": self.num_spans, "state": self.state, "begins": self._begins}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.num_spans, self.state, self._begins = state["num_spans"], state["state"], state["begins"]

    def _predict(self, windows: list[Window]) -> list[Tensor]:
        """ĝ at the end of each window, (N, S)."""
        rows = [window.end_rows() for window in windows]
        self._build(rows[0])
        predicted = carriers(self.synthesizer.estimate(torch.cat(rows)))[0].chunk(len(rows))
        return [part.masked_fill(w.ends[:, None], 0.0) for part, w in zip(predicted, windows, strict=True)]

    def _build(self, rows: Tensor) -> None:
        networks = [self.synthesizer, self.predictor] if self.auxiliary else [self.synthesizer]
        for index, network in enumerate(networks):
            if network.optimizer is None:
                network.build(rows, generator=torch.Generator().manual_seed(self._seed + index))

    def _injection_now(self) -> float:
        if not callable(self.injection):
            return self.injection
        return _check_injection(self.injection(self.num_spans))

    def _backward(self, windows: list[Window], synthetic: list[Tensor], *, injection: float) -> list[Tensor]:
        """Add to every `.grad`, from the last window to the first; returns G at the start of each, (N, S)."""
        targets = []
        used, bootstrap = injection * synthetic[-1], synthetic[-1]
        for index in reversed(range(len(windows))):
            if self.auxiliary and index + 1 < len(windows):
                used = used + self._auxiliary_gradient(windows[index], synthetic[index + 1])
            second = None if self._one_pass(injection) else self.discount * bootstrap
            pulled, target = windows[index].pull_back(used, second)
            targets.append(target)
            if index > 0:
                used = self._mixed(pulled, injection * synthetic[index - 1])
                bootstrap = self._mixed(target, synthetic[index - 1])
        return targets[::-1]

    def _one_pass(self, injection: float) -> bool:
        """Whether u = γ t at every boundary, so that U = G."""
        alike = injection == self.discount and (self.discount == 1.0 or self.bp_lambda == 0.0)
        return alike and not self.auxiliary

    def _mixed(self, true: Tensor, synthetic: Tensor) -> Tensor:
        if self.bp_lambda == 0.0:
            return synthetic
        return self.bp_lambda * true + (1.0 - self.bp_lambda) * synthetic

    def _auxiliary_gradient(self, window: Window, next_synthetic: Tensor) -> Tensor:
        """Of the auxiliary task's loss at the window's end, (N, S)."""
        rows = window.end_rows().requires_grad_()
        error = (self.predictor.networks[0](rows) - next_synthetic).square().sum()
        (gradient,) = torch.autograd.grad(error, rows)
        return (self.auxiliary * gradient).masked_fill(window.ends[:, None], 0.0)

    def _fit(self, windows: list[Window], synthetic: list[Tensor], targets: list[Tensor]) -> tuple[float, float]:
        """One regression step of the synthesizer and one of the auxiliary task; returns their losses."""
        going_on = [index for index, window in enumerate(windows) if window.start is not None]
        starts = [windows[index].start_rows() for index in going_on]
        last = [window.end_rows()[window.ends] for window in windows]
        wanted = [targets[index][~windows[index].begins] for index in going_on]
        loss = self._regress(self.synthesizer, starts + last, wanted + [torch.zeros_like(rows) for rows in last])
        if not self.auxiliary:
            return loss, 0.0
        next_synthetic = [synthetic[index][~windows[index].begins] for index in going_on]
        return loss, self._regress(self.predictor, starts, next_synthetic)

    def _regress(self, regression: Regression, rows: list[Tensor], targets: list[Tensor]) -> float:
        if not any(len(part) for part in rows):
            return 0.0
        return regression.learn(torch.cat(rows), torch.cat(targets), step=self.num_spans)


def _check_knobs(*, horizon: int, discount: float, bp_lambda: float, auxiliary: float) -> None:
    if horizon < 1:
        raise ValueError(f"a window must have at least 1 step, got horizon {horizon}.")
    if not (0.0 <= discount <= 1.0 and 0.0 <= bp_lambda <= 1.0):
        raise ValueError(f"discount and bp_lambda must lie in [0, 1], got discount {discount}, bp_lambda {bp_lambda}.")
    if auxiliary < 0.0:
        raise ValueError(f"auxiliary must not be negative, got {auxiliary}.")


def _check_injection(injection: float) -> float:
    if injection < 0.0:
        raise ValueError(f"injection must not be negative, got {injection}.")
    return injection


def _check_time_is_first(core: nn.Module) -> None:
    if getattr(core, "batch_first", False):
        raise ValueError(
            f"x must have its steps on axis 0, (steps, N, ...), got a {type(core).__name__} with batch_first=True. "
            "Make it with batch_first=False."
        )
