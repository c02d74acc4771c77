"""The plain PyTorch loops that every executor must equal, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from dni import GradientSource, TrueGradient
from pipeline import Config, Data, KeyedBatches, Partition, partition
from pipeline.configuration.quickstart import digits
from pipeline.randomness.keyed import seeded

CPU = torch.device("cpu")
_digits = cache(digits)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One small network on the digits, and how it is trained."""

    num_stages: int = 4
    batch_norm: bool = True
    dropout: float = 0.0
    optimizer: str = "sgd"
    batch_size: int = 96
    drop_last: bool = False
    steps: int = 22
    seed: int = 3

    def model(self) -> nn.Sequential:
        """Five blocks, the last one linear."""
        blocks = []
        for index, (width_in, width_out) in enumerate(((64, 24), (24, 32), (32, 24), (24, 16))):
            layers: list[nn.Module] = [nn.Linear(width_in, width_out)]
            layers += [nn.BatchNorm1d(width_out)] if self.batch_norm else []
            layers += [nn.ReLU(inplace=index % 2 == 0)]
            layers += [nn.Dropout(self.dropout)] if self.dropout else []
            blocks.append(nn.Sequential(*layers))
        return nn.Sequential(*blocks, nn.Sequential(nn.Linear(16, 10)))

    def cut(self, model: nn.Sequential) -> Partition:
        """The model in `num_stages` stages, cut between blocks."""
        starts = [str(5 * stage // self.num_stages) for stage in range(1, self.num_stages)]
        return partition(model, at=starts) if starts else partition(model, 1)

    def batches(self) -> KeyedBatches:
        """The digits in keyed order; most batch sizes leave a short last batch."""
        whole = _digits().train
        return KeyedBatches(whole.x, whole.target, batch_size=self.batch_size, seed=self.seed, drop_last=self.drop_last)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Momentum and weight decay, so that a stray zero gradient would show."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=3e-3, weight_decay=1e-4)
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-4)

    def config(self, source: GradientSource | None = None, **settings: object) -> Config:
        """The same training as a run; by default with the true gradient."""
        config = Config(
            model=lambda: self.cut(self.model()),
            data=lambda: Data(train=self.batches()),
            loss=nn.CrossEntropyLoss(),
            source=source or TrueGradient(),
            optimizer=self.make_optimizer,
            steps=self.steps,
            seed=self.seed,
        )
        return replace(config, **settings)  # type: ignore[arg-type]


def initial_model(problem: Problem) -> nn.Sequential:
    """The model a run of this problem starts from."""
    state = torch.default_generator.get_state()
    seeded(problem.seed, "model", 0, device=CPU)
    model = problem.model()
    torch.default_generator.set_state(state)
    return model


def summed_loss_loop(problem: Problem, *, cadence: int = 1) -> dict[str, Tensor]:
    """Backprop through the whole network; the loss is summed and each `.grad` divided once by the samples."""
    model = initial_model(problem).train()
    optimizer = problem.make_optimizer(model.parameters())
    loss = nn.CrossEntropyLoss(reduction="sum")
    samples = 0
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        h = x
        for index, stage in enumerate(problem.cut(model).stages):
            seeded(problem.seed, f"forward/{index}", step, device=CPU)
            h = stage(h)
        loss(h, target).backward()
        samples += len(x)
        if (step + 1) % cadence == 0:
            _apply(model, optimizer, samples)
            samples = 0
    if samples:
        _apply(model, optimizer, samples)
    return state(model)


def mean_loss_loop(problem: Problem) -> dict[str, Tensor]:
    """The loop everybody writes."""
    model = initial_model(problem).train()
    optimizer = problem.make_optimizer(model.parameters())
    loss = nn.CrossEntropyLoss()
    for _, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        optimizer.zero_grad()
        loss(model(x), target).backward()
        optimizer.step()
    return state(model)


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of everything the model holds."""
    return copy.deepcopy(model.state_dict())


def assert_bit_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Same names, same bits."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


def _apply(model: nn.Module, optimizer: torch.optim.Optimizer, samples: int) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(samples)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
