"""Do the synthesizers map what they say, and start at zero?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni import MLP, Convolutional, Linear, LowRank, SyntheticGradient
from dni.sources.synthesizers import Synthesizer, make_synthesizer

FEATURES, TOKENS, IMAGES = (6, 8), (6, 5, 8), (6, 4, 5, 7)
SPECS = [Linear(), LowRank(rank=3), MLP(hidden=(16, 12)), MLP(hidden=(16,), batch_norm=False)]
CASES = [(spec, shape) for spec in SPECS for shape in (FEATURES, TOKENS, IMAGES)] + [
    (Convolutional(channels=(9,), kernel_size=3), IMAGES),
    (Convolutional(channels=(9, 6), batch_norm=False), IMAGES),
]


def _context(shape: tuple[int, ...], num_context: int) -> Tensor:
    """Constant over tokens or pixels, as the labels of samples are."""
    code = torch.randn(shape[0], num_context)
    if len(shape) == 3:
        return code[:, None, :].expand(-1, shape[1], -1)
    return code.view(*code.shape, *(1,) * (len(shape) - 2)).expand(-1, -1, *shape[2:])


def _woken(module: nn.Module) -> nn.Module:
    """With every parameter away from zero."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=str)
@pytest.mark.parametrize("num_context", [0, 3])
def test_a_new_synthesizer_sends_exactly_zero_in_the_shape_of_h(
    spec: Callable[[Tensor, int], nn.Module], shape: tuple[int, ...], num_context: int
) -> None:
    h = torch.randn(shape)
    context = (_context(shape, num_context),) if num_context else ()
    assert torch.equal(spec(h, num_context)(h, *context), torch.zeros(shape))


@pytest.mark.parametrize(("spec", "shape"), CASES, ids=str)
def test_a_synthesizer_can_leave_zero_and_uses_its_context(
    spec: Callable[[Tensor, int], nn.Module], shape: tuple[int, ...]
) -> None:
    h, context = torch.randn(shape), _context(shape, 3)
    module = spec(h, 3)
    module(h, context).sub(torch.randn(shape)).square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())
    _woken(module)
    assert not torch.allclose(module(h, context), module(h, context.roll(1, 0)))


def test_linear_is_h_a_plus_y_b_plus_c() -> None:
    h, y = torch.randn(FEATURES), torch.randn(6, 3)
    module = _woken(Linear()(h, 3))
    weight, bias = module.parameters()
    torch.testing.assert_close(module(h, y), h @ weight[:, :8].T + y @ weight[:, 8:].T + bias)


def test_low_rank_is_linear_with_no_more_than_its_rank() -> None:
    h = torch.eye(20)
    module = LowRank(rank=3)(h, 0)
    up = _woken(module).get_parameter("map.1.bias")
    assert torch.linalg.matrix_rank(module(h) - up) == 3


@pytest.mark.parametrize("spec", [Linear(), LowRank(rank=3), MLP(hidden=(16,), batch_norm=False)], ids=str)
def test_tokens_do_not_mix(spec: Callable[[Tensor, int], nn.Module]) -> None:
    h = torch.randn(TOKENS)
    module = _woken(spec(h, 0))
    changed = h.clone()
    changed[:, 2] += 1
    differs = (module(h) != module(changed)).any(dim=2).any(dim=0)
    assert differs.tolist() == [False, False, True, False, False]


def test_tokens_share_one_map_and_their_batch_norm_normalises_channels() -> None:
    h = torch.randn(TOKENS)
    module = _woken(MLP(hidden=(16,))(h, 0))
    rows = module.get_submodule("map")(h.reshape(30, 8))
    torch.testing.assert_close(module(h), rows.view(TOKENS))


def test_linear_on_images_is_one_convolution_of_the_given_width() -> None:
    h = torch.randn(IMAGES)
    shapes = [tuple(parameter.shape) for parameter in Linear(kernel_size=3)(h, 2).parameters()]
    assert shapes == [(4, 6, 3, 3), (4,)]


def test_hidden_layers_are_linear_batch_norm_relu() -> None:
    layers = MLP(hidden=(16, 12))(torch.randn(FEATURES), 0).get_submodule("map")
    kinds = [type(layer) for layer in layers.children()]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 2 + [nn.Linear]


@pytest.mark.parametrize("name", ["linear", "low-rank", "mlp"])
def test_a_name_chooses_a_kind(name: Synthesizer) -> None:
    h = torch.randn(FEATURES)
    assert make_synthesizer(name, h, num_context=0)(h).shape == FEATURES
    assert make_synthesizer("convolutional", torch.randn(IMAGES), num_context=0)


def test_a_module_of_the_users_own_is_copied() -> None:
    own = nn.Linear(8, 8)
    made = make_synthesizer(own, torch.randn(FEATURES), num_context=0)
    assert made is not own and torch.equal(made.get_parameter("weight"), own.weight)


def test_a_function_gets_h_and_the_size_of_the_context() -> None:
    seen = []

    def function(h: Tensor, num_context: int) -> nn.Module:
        seen.append((h.shape, num_context))
        return nn.Identity()

    make_synthesizer(function, torch.randn(FEATURES), num_context=3)
    assert seen == [(FEATURES, 3)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_synthesizer("cubic", torch.randn(FEATURES), num_context=0), "got 'cubic'"),
        (
            lambda: Convolutional()(torch.randn(FEATURES), 0),
            r"serves an h of \(N, C, H, W\), got shape \(6, 8\)",
        ),
        (lambda: Linear()(torch.randn(6), 0), r"got shape \(6,\)"),
        (lambda: Linear(kernel_size=4), "must be odd, got 4"),
        (lambda: Convolutional(kernel_size=0), "must be odd, got 0"),
        (lambda: LowRank(rank=0), "at least 1, got 0"),
        (lambda: MLP(hidden=(4, 0)), r"at least 1, got \(4, 0\)"),
        (lambda: Convolutional(channels=(0,)), r"at least 1, got \(0,\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("given", [lambda h, num_context: None, 3])
def test_what_is_no_module_is_refused(given: Synthesizer) -> None:
    with pytest.raises(TypeError, match="must be a name, a module, or a function"):
        make_synthesizer(given, torch.randn(FEATURES), num_context=0)


def test_an_output_of_another_shape_than_h_is_refused_at_build(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match=r"shape \(6, 8\), got \(6, 9\), at floating-point member 1 of h.*Linear"):
        SyntheticGradient(lambda h, _: nn.Linear(h.shape[1], 9 if h.shape[1] == 8 else h.shape[1])).build(
            (torch.randn(6, 2), torch.arange(6), torch.randn(FEATURES)), generator=generator
        )
