"""Do Taylor series give the summaries of the reference, for what they promise to cost?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni import ParameterPartition, Rows, is_chain, loss_parts, summarise, summarise_chain
from tests.dni.curvature.networks import Flops, convolutional, mlp, parameters_of, random_direction, shapes_of

PARTITIONS: dict[str, Callable[[dict[str, tuple[int, ...]]], ParameterPartition]] = {
    "tensor": ParameterPartition.by_tensor,
    "layer": ParameterPartition.by_layer,
    "one": ParameterPartition.as_one,
    "kinds": lambda shapes: ParameterPartition.by_name(
        shapes,
        {end: [name for name in shapes if name.endswith(end)] for end in ("weight", "bias")},
    ),
    "rows": lambda shapes: ParameterPartition.by_selectors(shapes, Rows(next(iter(shapes)))),
}


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("network", [mlp, convolutional])
def test_summary_of_a_chain_is_that_of_the_reference(
    network: Callable[[], tuple[nn.Sequential, Tensor, Tensor]], partition: str
) -> None:
    module, x, target = network()
    subsets, u, loss = PARTITIONS[partition](shapes_of(module)), random_direction(module), nn.CrossEntropyLoss()
    found = summarise_chain(module, loss, x, target, u, subsets, samples_at_once=3)
    expected = summarise(loss_parts(module, loss, x, target), parameters_of(module), u, subsets)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.hessian, expected.hessian, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.third, expected.third, rtol=1e-9, atol=1e-9)


ACTIVATIONS = [
    *(nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Softplus(), nn.ELU(0.5), nn.Mish()),
    *(nn.Softsign(), nn.ReLU(), nn.LeakyReLU()),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_every_activation_has_its_three_derivatives(activation: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(2, 3), activation, nn.Linear(3, 2), activation.__class__()).double()
    x, target = torch.randn(5, 2).double(), torch.randn(5, 2).double()
    partition, u = ParameterPartition.by_layer(shapes_of(module)), random_direction(module)
    found = summarise_chain(module, nn.MSELoss(), x, target, u, partition)
    expected = summarise(loss_parts(module, nn.MSELoss(), x, target), parameters_of(module), u, partition)
    torch.testing.assert_close(found.hessian, expected.hessian, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.third, expected.third, rtol=1e-9, atol=1e-9)


def test_layers_that_work_in_place_change_nothing_that_is_used_again() -> None:
    module = nn.Sequential(nn.ELU(inplace=True), nn.Linear(2, 3), nn.SiLU(inplace=True), nn.Linear(3, 2)).double()
    x, target = torch.randn(5, 2).double(), torch.randint(2, (5,))
    before, loss = x.clone(), nn.CrossEntropyLoss()
    partition, u = ParameterPartition.by_tensor(shapes_of(module)), random_direction(module)
    found = summarise_chain(module, loss, x, target, u, partition)
    expected = summarise(loss_parts(module, loss, x, target), parameters_of(module), u, partition)
    torch.testing.assert_close(found.third, expected.third, rtol=1e-9, atol=1e-9)
    assert torch.equal(x, before)
    assert module[2].inplace


def test_training_is_the_same_to_the_bit_with_a_probe_and_without() -> None:
    module, x, target = mlp()
    module.insert(2, nn.Dropout(0.5))
    twin = copy.deepcopy(module)
    loss, partition = nn.CrossEntropyLoss(), ParameterPartition.by_layer(shapes_of(module))

    def train(own: nn.Module, probe: Callable[[], None]) -> None:
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(own.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss(own.train()(x), target).backward()
            probe()
            optimizer.step()

    def look() -> None:
        still = copy.deepcopy(module).eval()
        u = {name: each.grad for name, each in module.named_parameters() if each.grad is not None}
        summarise_chain(still, loss, x, target, u, partition, samples_at_once=4)
        summarise(loss_parts(still, loss, x, target), parameters_of(still), u, partition)

    train(module, look)
    train(twin, lambda: None)
    assert all(torch.equal(one, other) for one, other in zip(module.parameters(), twin.parameters(), strict=True))


def test_parameters_outside_of_the_partition_stand_still() -> None:
    module, x, target = mlp()
    shapes = {name: shape for name, shape in shapes_of(module).items() if name.startswith("2.")}
    partition, u = ParameterPartition.by_tensor(shapes), random_direction(module)
    u = {name: u[name] for name in shapes}
    found = summarise_chain(module, nn.CrossEntropyLoss(), x, target, u, partition)
    own = {name: each for name, each in parameters_of(module).items() if name in shapes}
    expected = summarise(loss_parts(module, nn.CrossEntropyLoss(), x, target), own, u, partition)
    torch.testing.assert_close(found.third, expected.third, rtol=1e-9, atol=1e-9)


def test_deep_network_costs_what_was_promised() -> None:
    """20 hidden layers, 42 subsets: about 15 times a forward and backward pass; the paper's scheme takes 176."""
    width = 256
    layers = [layer for _ in range(20) for layer in (nn.Linear(width, width), nn.ELU())]
    module, x, target = nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(32, width), torch.randint(10, (32,))
    loss, partition, u = (
        nn.CrossEntropyLoss(),
        ParameterPartition.by_tensor(shapes_of(module)),
        random_direction(module),
    )
    assert partition.num_subsets == 42
    with Flops() as plain:
        loss(module(x), target).backward()
    with Flops() as counted:
        summarise_chain(module, loss, x, target, u, partition)
    assert counted.total < 17 * plain.total


class Residuals(nn.Module):
    """Sums with and without layers on both ways, of equal and of different subsets; and functions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ELU(inplace=True))
        self.lower, self.upper = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.left, self.right = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1, bias=False)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        out = self.upper(torch.tanh(self.lower(h)))
        out += h
        h = nn.functional.silu(out)
        h = torch.add(self.left(h), self.right(h))
        y: Tensor = self.head(nn.functional.gelu(h).view(len(x), -1))
        return y + y


def test_layers_with_sums_between_them_are_summarised_as_by_the_reference() -> None:
    module = Residuals().double()
    x, target, loss = torch.randn(5, 1, 2, 2).double(), torch.randint(3, (5,)), nn.CrossEntropyLoss()
    u = random_direction(module)
    for kind in ("tensor", "one", "rows"):
        partition = PARTITIONS[kind](shapes_of(module))
        found = summarise_chain(module, loss, x, target, u, partition, samples_at_once=2)
        expected = summarise(loss_parts(module, loss, x, target), parameters_of(module), u, partition)
        torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.hessian, expected.hessian, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.third, expected.third, rtol=1e-9, atol=1e-9)
    assert is_chain(module, x) and not is_chain(module)
    assert module.stem[1].inplace and not module.lower._forward_hooks


class Multiplied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * x


class Stale(Multiplied):
    """What was added to in place is used under its old name."""

    def forward(self, x: Tensor) -> Tensor:
        y = h = self.layer(x)
        y += y
        return y + h


class Twice(Multiplied):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(self.layer(x))
        return y


class Drawn(Multiplied):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.rand_like(x)


class Tied(Multiplied):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(2, 2)
        self.other.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.other(self.layer(x))
        return y


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Drawn(), "rand_like, which is called between layers"),
        (Tied(), "a parameter that two layers share"),
        (nn.Sequential(Multiplied(), nn.Softmax(1)), "mul"),
        (Multiplied(), "mul, which is called between layers"),
        (Stale(), "in place"),
        (Twice(), "Linear that is used twice"),
    ],
)
def test_module_that_does_more_than_adding_is_refused(module: nn.Module, reason: str) -> None:
    partition, u = ParameterPartition.by_tensor(shapes_of(module)), random_direction(module)
    x, before = torch.randn(4, 2), torch.random.get_rng_state()
    assert not is_chain(module, x)
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(TypeError, match=reason):
        summarise_chain(module, nn.MSELoss(), x, x, u, partition)


def test_chain_with_a_layer_of_another_kind_is_refused_by_name() -> None:
    module, x, target = mlp()
    assert is_chain(module)
    partition, u = ParameterPartition.by_tensor(shapes_of(module)), random_direction(module)
    softmax = nn.Sequential(*module, nn.Softmax(1))
    assert not is_chain(softmax)
    with pytest.raises(TypeError, match="layer '5', a Softmax, must be of a kind"):
        summarise_chain(softmax, nn.CrossEntropyLoss(), x, target, u, partition)
    twice = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    twice.append(twice[0])
    assert not is_chain(twice)
