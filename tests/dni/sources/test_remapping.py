"""Does every source follow the units at its boundary, keep what it learned, and go on learning?

A new source comes under these tests with its row in CASES of `tests.dni.test_conformance`.
"""

from __future__ import annotations

import copy
import inspect
import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dni
from dni import (
    MLP,
    NEW,
    AxisChange,
    ConditionalSyntheticGradient,
    Critic,
    DirectFeedbackAlignment,
    Kickback,
    LocalLoss,
    MixedGradient,
    Need,
    Origin,
    Remappable,
    Shadow,
    Signal,
    Sum,
    SyntheticGradient,
    TrueGradient,
    UnitFollower,
    map_tensor,
    translate,
)
from tests.dni.test_conformance import CASES, Case

N = 12
UNITS = 12
SHAPES = {"features": (N, 12), "tokens": (N, 3, 12), "images": (N, 12, 4, 3)}
COPY = Origin.duplicate([1, 1, 3], num_old=UNITS)
KEEP = [0, 2, 3, 7, 11]
PRUNE = Origin.keep(KEEP, num_old=UNITS)
INSERT = Origin.insert([2, 9], num_old=UNITS)

FOLLOWING = {
    name: (case, [kind for kind in SHAPES if kind in case.serves])
    for name, case in CASES.items()
    # The loss stands at the network's output, whose units are the classes.
    if name != "loss"
}
rows = pytest.mark.parametrize(
    ("case", "kind"),
    [pytest.param(case, kind, id=f"{name}-{kind}") for name, (case, kinds) in FOLLOWING.items() for kind in kinds],
)
"""Every source with every kind of h that it serves."""
hardest = pytest.mark.parametrize(
    ("case", "kind"),
    [pytest.param(case, kinds[-1], id=f"{name}-{kinds[-1]}") for name, (case, kinds) in FOLLOWING.items()],
)
"""Every source with the kind in which the units lie in the most complicated way."""


def _drawn(kind: str, seed: int = 0) -> Tensor:
    return torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _signal(kind: str) -> Signal:
    draw = torch.Generator().manual_seed(5)
    error = torch.randn(N, 10, generator=draw, dtype=torch.float64)
    loss = torch.rand(N, generator=draw, dtype=torch.float64)
    return Signal(step=0, target=torch.arange(N) % 10, gradient=_drawn(kind, 1), error=error, loss=loss)


def _learned(source: Any, h: Tensor, signal: Signal, *, times: int = 2) -> Any:
    """The source, built and taught."""
    source.build(h, generator=_generator())
    for _ in range(times):
        source.learn(h, signal)
    return source


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _axis(h: Tensor) -> int:
    return 2 if h.dim() == 3 else 1


def _remap(source: Any, origin: Origin, h: Tensor) -> None:
    source.remap(origin, generator=_generator(), axis=_axis(h))


def _after(signal: Signal, origin: Origin, h: Tensor) -> Signal:
    assert signal.gradient is not None
    return replace(signal, gradient=translate(signal.gradient, origin, holds="gradient", axis=_axis(h)))


def _state(source: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(source.state_dict(), stream)
    return stream.getvalue()


def _close(found: Any, wanted: Any, *, atol: float = 1e-12) -> None:
    if wanted is None:
        assert found is None
        return
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def test_every_source_of_the_package_follows() -> None:
    classes = [value for name in dni.__all__ if inspect.isclass(value := getattr(dni, name))]
    protocols = {dni.GradientSource, dni.InputSource}
    sources = [own for own in classes if own not in protocols and all(hasattr(own, has) for has in ("build", "learn"))]
    assert len(sources) > 15
    assert [own.__name__ for own in sources if not hasattr(own, "remap")] == []
    assert isinstance(TrueGradient(), Remappable)


@rows
def test_a_copy_gets_its_share_of_what_its_unit_got(case: Case, kind: str) -> None:
    h, signal = _drawn(kind), _signal(kind)
    source: Any = _learned(case.make(), h, signal)
    before = source.estimate(h, signal)
    _remap(source, COPY, h)
    found = source.estimate(translate(h, COPY, holds="activation", axis=_axis(h)), _after(signal, COPY, h))
    _close(found, None if before is None else translate(before, COPY, holds="gradient", axis=_axis(h)))


@hardest
def test_removed_units_are_silent_ones_now_and_in_the_next_updates(case: Case, kind: str) -> None:
    h, signal = _drawn(kind), _signal(kind)
    twin: Any = _learned(case.make(), h, signal)
    source = copy.deepcopy(twin)
    _remap(source, PRUNE, h)
    silenced, small, pruned = _silenced(h), PRUNE.apply(h, _axis(h)), _after(signal, PRUNE, h)
    # Of a mixture or a sum, what is learned is a part that cannot be read off the estimate.
    for _ in range(1 if isinstance(twin, MixedGradient | Sum) else 2):
        whole = twin.estimate(silenced, signal)
        _close(source.estimate(small, pruned), None if whole is None else PRUNE.apply(whole, _axis(h)), atol=1e-9)
        source.learn(small, pruned)
        twin.learn(silenced, _without_error_at_removed(signal, h, whole))


@hardest
def test_new_units_change_nothing_at_first_and_are_learned(case: Case, kind: str) -> None:
    h, signal = _drawn(kind), _signal(kind)
    source: Any = _learned(case.make(), h, signal)
    before = source.estimate(h, signal)
    _remap(source, INSERT, h)
    after = _signal(kind)
    grown, gradient = _filled(h), _filled(_drawn(kind, 1))
    after = replace(signal, gradient=gradient)
    if before is None:
        return
    found, axis = source.estimate(grown, after), _axis(h)
    fresh = torch.tensor(INSERT.fresh)
    _close(_without(found, axis), before)
    if source.learns_from is Need.NONE:
        return
    if not source.needs & Need.GRADIENT:
        assert not found.index_select(axis, fresh).any()
    losses = [source.learn(grown, after) for _ in range(15)]
    assert losses[-1] < losses[0]
    assert source.estimate(grown, after).index_select(axis, fresh).any()


@hardest
def test_a_source_that_followed_loads_into_one_never_built_and_goes_on_alike(case: Case, kind: str) -> None:
    h, signal = _drawn(kind), _signal(kind)
    source: Any = _learned(case.make(), h, signal)
    for origin in (INSERT, Origin.keep([1, 2, 5, 6], num_old=14).then(Origin.duplicate([0, 3], num_old=4))):
        _remap(source, origin, h)
        h, signal = translate(h, origin, holds="activation", axis=_axis(h)), _after(signal, origin, h)
        source.learn(h, signal)
    loaded: Any = case.make()
    loaded.load_state_dict(torch.load(io.BytesIO(_state(source)), weights_only=True))
    _close(loaded.estimate(h, signal), source.estimate(h, signal), atol=0)
    assert loaded.learn(h, signal) == source.learn(h, signal)
    assert _state(loaded) == _state(source)
    # An event after the restart is the same, too.
    for own in (loaded, source):
        _remap(own, Origin.append(1, num_old=6), h)
    assert _state(loaded) == _state(source)


@hardest
def test_asking_whether_a_source_can_follow_changes_and_draws_nothing(case: Case, kind: str) -> None:
    h, signal = _drawn(kind), _signal(kind)
    source: Any = case.make()
    _remap(source, PRUNE, h)  # never built: nothing to follow with
    _learned(source, h, signal, times=1)
    before, generator = _state(source), _generator()
    source.remap(Origin.identity(UNITS), generator=generator, axis=_axis(h))
    assert _state(source) == before and torch.equal(generator.get_state(), _generator().get_state())


def test_a_linear_synthesizer_and_adam_follow_as_written_out() -> None:
    h, signal = _drawn("features"), _signal("features")
    source = _learned(ConditionalSyntheticGradient(), h, signal)
    old_weight, old_bias = (own.detach() for own in source.parameters())
    moments = list(source.regression.optimizer.state.values())
    origin = Origin(num_old=UNITS, sources=(4, NEW, 4, 9), scale=(0.25, 1.0, 0.75, 1.0))
    _remap(source, origin, h)
    weight, bias = source.parameters()
    state = source.regression.optimizer.state
    assert set(state) == {weight, bias} == set(source.regression.optimizer.param_groups[0]["params"])
    for row, (j, a) in enumerate(zip(origin.sources, origin.scale, strict=True)):
        if j == NEW:
            assert not weight[row].any() and not weight[:, row].any() and not bias[row]
            continue
        assert torch.equal(weight[row, 4:], a * old_weight[j, UNITS:])
        assert bias[row] == a * old_bias[j]
        assert state[bias]["exp_avg_sq"][row] == a**2 * moments[1]["exp_avg_sq"][j]
        for column, (i, b) in enumerate(zip(origin.sources, origin.scale, strict=True)):
            if i != NEW:
                assert weight[row, column].item() == pytest.approx((a * b * old_weight[j, i]).item(), rel=1e-15)
                assert state[weight]["exp_avg"][row, column] == a * moments[0]["exp_avg"][j, i]
                assert state[weight]["exp_avg_sq"][row, column] == a**2 * moments[0]["exp_avg_sq"][j, i]
    assert state[weight]["step"] == moments[0]["step"] == 2


@pytest.mark.parametrize("name", ["linear", "low-rank", "mlp"])
def test_gradients_of_the_last_layer_follow_as_the_kinds_say(name: Any) -> None:
    h, signal = _drawn("features"), _signal("features")
    source = _learned(SyntheticGradient(name), h, signal)

    def gradients(h: Tensor, gradient: Any) -> dict[str, Tensor]:
        source.zero_grad()
        source.regression.squared_error(h, gradient).backward()
        return {name: own.grad for name, own in source.regression.networks[0].named_parameters()}

    before = gradients(h, signal.gradient)
    changes = source.regression.networks[0].axis_changes(COPY, h)
    _remap(source, COPY, h)
    after = gradients(translate(h, COPY, holds="activation"), translate(signal.gradient, COPY, holds="gradient"))
    assert changes.keys() <= before.keys()
    followed = {name: map_tensor(own, changes.get(name, ()), "gradient") for name, own in before.items()}
    # Only the last layer: hidden ones see less of a unit with copies, n times the square of its error's nth part.
    for own in [own for own in changes if changes[own][0].side == "predictor"]:
        torch.testing.assert_close(after[own], followed[own], rtol=0, atol=1e-11)


def test_where_no_unit_is_kept_the_networks_begin_anew_as_at_build() -> None:
    h, signal = _drawn("features"), _signal("features")
    source = _learned(SyntheticGradient(MLP((8,))), h, signal)
    _remap(source, Origin(num_old=UNITS, sources=(NEW,) * 5, scale=(1.0,) * 5), h)
    built: Any = SyntheticGradient(MLP((8,)))
    built.build(h[:, :5], generator=_generator())
    assert _state(source) == _state(built)


def test_new_columns_of_direct_feedback_are_drawn_and_the_others_kept() -> None:
    h = _drawn("images")
    source = DirectFeedbackAlignment(scale=2.0)
    source.build(h, generator=_generator())
    old = source.feedback[0].view(10, UNITS, -1)
    _remap(source, Origin.append(400, num_old=UNITS), h)
    new = source.feedback[0].view(10, UNITS + 400, -1)
    assert torch.equal(new[:, :UNITS], old)
    assert new[:, UNITS:].std() == pytest.approx(2.0 / 10**0.5, rel=0.02)
    assert not source.feedback[0].requires_grad


def test_units_keep_their_outputs_in_kickback_and_a_new_one_has_that_of_its_place() -> None:
    h, error = _drawn("features"), torch.randn(N, 5, dtype=torch.float64)
    source = Kickback()
    source.build(h, generator=_generator())
    origin = Origin(num_old=UNITS, sources=(7, NEW, 3, 3), scale=(1.0, 1.0, 0.5, 0.5))
    _remap(source, origin, h)
    found = source.estimate(h[:, :4], Signal(step=0, error=error))
    wanted = torch.stack([error[:, 2], error[:, 1], error[:, 3] / 2, error[:, 3] / 2], dim=1)
    assert isinstance(found, Tensor) and torch.equal(found, wanted)


class _Own(nn.Module):
    """A scale for each unit and a matrix: nothing that could be found from outside."""

    def __init__(self, num_units: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(num_units))
        self.matrix = nn.Parameter(torch.rand(num_units, num_units))

    def forward(self, h: Tensor) -> Tensor:
        return h @ self.matrix * self.scale


class _OwnFollower(_Own):
    def axis_changes(self, origin: Origin, h: Tensor) -> dict[str, tuple[AxisChange, ...]]:
        reading = AxisChange(axis=0, origin=origin, side="consumer")
        giving = AxisChange(axis=1, origin=origin.raised(0), side="producer")
        return {"scale": (AxisChange(axis=0, origin=origin, side="predictor"),), "matrix": (reading, giving)}


def test_a_network_of_the_users_own_follows_if_it_says_how_and_is_refused_if_not() -> None:
    h, signal = _drawn("features"), _signal("features")
    assert isinstance(_OwnFollower(2), UnitFollower) and not isinstance(_Own(2), UnitFollower)
    source = _learned(SyntheticGradient(_OwnFollower(UNITS)), h, signal)
    before = source.estimate(h, signal)
    _remap(source, COPY, h)
    found = source.estimate(translate(h, COPY, holds="activation"), signal)
    _close(found, translate(before, COPY, holds="gradient"))

    gated = nn.Sequential(nn.Linear(UNITS, UNITS), nn.Tanh())
    normed = nn.Sequential(nn.BatchNorm1d(UNITS), nn.Linear(UNITS, UNITS))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(UNITS * 12, 10))
    for made in (_Own(UNITS), gated, normed):
        refused = _learned(SyntheticGradient(made), h, signal, times=1)
        with pytest.raises(TypeError, match=r"must say which of its parameters follow .* axis_changes\(origin, h\)"):
            _remap(refused, Origin.identity(UNITS), h)
    with pytest.raises(TypeError, match="use ValueMLP"):
        _remap(_learned(Critic(10, lambda h, context: _Value()), h, signal), PRUNE, h)
    with pytest.raises(TypeError, match="use 'linear', 'mlp' or 'convolutional'"):
        _remap(_learned(LocalLoss(10, nn.Sequential(nn.Sigmoid(), nn.Linear(UNITS, 10))), h, signal), PRUNE, h)
    images = _drawn("images")
    grouped = SyntheticGradient(nn.Conv2d(UNITS, UNITS, 3, padding=1, groups=2))
    _learned(grouped, images, _signal("images"))
    with pytest.raises(ValueError, match=r"a column for each, got a Conv2d .* with groups=1"):
        _remap(grouped, PRUNE, images)
    pixelwise = nn.Sequential(nn.Flatten(2), nn.Linear(12, 10), nn.Flatten(), nn.Linear(UNITS * 10, 10))
    with pytest.raises(TypeError, match="Sequential does not"):
        _remap(_learned(LocalLoss(10, pixelwise), images, signal), PRUNE, images)
    local = _learned(LocalLoss(10, flat), images, _signal("images"))
    before = local.estimate(images, signal)
    _remap(local, COPY, images)
    copied = local.estimate(translate(images, COPY, holds="activation"), signal)
    _close(copied, translate(before, COPY, holds="gradient"))


class _Value(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(UNITS, 1)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        found: Tensor = self.map(h)
        return found


def test_what_no_source_can_follow_is_refused_and_leaves_it_whole() -> None:
    h, signal = _drawn("features"), _signal("features")
    source = _learned(SyntheticGradient(), h, signal)
    before = _state(source)
    with pytest.raises(ValueError, match="the origin is of 5 indices, but axis 1"):
        _remap(source, Origin.keep([0], num_old=5), h)
    with pytest.raises(ValueError, match="axis of h's features, 1 for an h of shape"):
        source.remap(PRUNE, generator=_generator(), axis=0)
    assert _state(source) == before
    tokens = _learned(SyntheticGradient(), _drawn("tokens"), _signal("tokens"))
    with pytest.raises(ValueError, match=r"2 for an h of shape \(N, 3, 12\), got units along axis 1"):
        tokens.remap(Origin.keep([0], num_old=3), generator=_generator())
    for several in (SyntheticGradient(), DirectFeedbackAlignment(), Kickback()):
        several.build((h, h), generator=_generator())
        with pytest.raises(ValueError, match="one floating-point member, and it has 2"):
            _remap(several, PRUNE, h)
    other = _learned(SyntheticGradient(optimizer=torch.optim.Adafactor), h, signal)
    with pytest.raises(TypeError, match="kept element by element, got Adafactor"):
        _remap(other, Origin.identity(UNITS), h)


def test_several_sources_follow_together_or_not_at_all() -> None:
    h, signal = _drawn("features"), _signal("features")
    both = _learned(Sum(LocalLoss(), SyntheticGradient(_Own(UNITS))), h, signal)
    before = _state(both)
    with pytest.raises(TypeError, match="_Own does not"):
        _remap(both, PRUNE, h)
    assert _state(both) == before
    with pytest.raises(TypeError, match=r"must have remap\(origin, .* and _Stubborn has not"):
        _remap(_learned(Shadow(_Stubborn(), SyntheticGradient()), h, signal), PRUNE, h)


class _Stubborn(nn.Module):
    needs = learns_from = Need.NONE

    def build(self, h: dni.Members, *, generator: torch.Generator) -> None:
        """Nothing."""

    def estimate(self, h: dni.Members, signal: Signal) -> dni.Members | None:
        return None

    def learn(self, h: dni.Members, signal: Signal) -> float:
        return 0.0


def _silenced(h: Tensor) -> Tensor:
    """h, with what is pruned at 0."""
    silenced = torch.zeros_like(h)
    kept = torch.tensor(KEEP)
    return silenced.index_copy_(_axis(h), kept, h.index_select(_axis(h), kept))


def _without_error_at_removed(signal: Signal, h: Tensor, estimate: Tensor | None) -> Signal:
    """The signal with a gradient at removed units that is what the source says of them: nothing to learn there."""
    if estimate is None:
        return signal
    assert isinstance(signal.gradient, Tensor)
    kept = torch.tensor(KEEP)
    target = estimate.index_copy(_axis(h), kept, signal.gradient.index_select(_axis(h), kept))
    return replace(signal, gradient=target)


def _filled(h: Tensor) -> Tensor:
    """h with something at new units."""
    axis = _axis(h)
    shape = list(h.shape)
    shape[axis] = len(INSERT.fresh)
    return INSERT.apply(h, axis, fill=torch.randn(shape, dtype=h.dtype))


def _without(found: Tensor, axis: int) -> Tensor:
    old = [unit for unit, source in enumerate(INSERT.sources) if source != NEW]
    return found.index_select(axis, torch.tensor(old))
