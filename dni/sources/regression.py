"""How does a source with networks of its own learn? For most, by predicting the gradients that it is shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dni.members import Members, carriers, like, num_samples
from dni.schedules.schedule import Schedule
from dni.sources.implied import field_loss
from dni.sources.remapping import check_units, unit_axis
from dni.sources.unit_changes import changes_of, follow_
from dni.structure.optimizer_state import slots_of
from dni.structure.origin import Origin

__all__ = ["ADAM", "OptimizerFactory", "Regression"]

OptimizerFactory: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Makes an optimiser for the parameters it is given."""
ADAM: OptimizerFactory = partial(torch.optim.Adam, lr=1e-3)
"""What a source's networks learn with unless the user says otherwise."""


class Regression(nn.Module):
    """One network per floating-point member of h, the optimiser they share, and its schedule.

    The networks are called as network(h, *context), where the context is the same for all of them, and give a gradient
    of h's shape: a prediction, or the gradient at h of something that they hold.

    Args:
        make: makes the network for a member of h.
        optimizer: makes the optimiser; its learning rates are the base of the schedule.
        schedule: factor of the learning rates, as a function of the step.
    """

    def __init__(self, make: Callable[[Tensor], nn.Module], *, optimizer: OptimizerFactory, schedule: Schedule) -> None:
        super().__init__()
        self.networks = nn.ModuleList()
        self.optimizer: torch.optim.Optimizer | None = None
        self._make = make
        self._make_optimizer = optimizer
        self._schedule = schedule
        self.templates: list[Tensor] = []
        """A tensor of no samples per network: its shape (0, *F), dtype and device are the member's."""
        self._built: list[Tensor] = []
        """The same for the members that the networks were made for."""
        self._followed: Origin | None = None
        """How the units of h follow from those that the networks were made for; None: they are the same."""
        self._norms: list[_BatchNorm] = []
        self._unsteady: list[str] = []
        """Layers whose output for a sample is not a function of that sample."""
        self._learned: list[nn.Parameter] = []

    def build(self, h: Members, *context: Tensor, generator: torch.Generator) -> None:
        """Make the networks and the optimiser for outputs shaped as `h`.

        Raises:
            ValueError: h has no floating-point member, or a network's output does not have its member's
                shape.
        """
        if not carriers(h):
            raise ValueError(
                "a source of synthetic gradients needs a floating-point member in h, got none. "
                "Cut the model where a floating-point tensor crosses."
            )
        members = [member.detach() for member in carriers(h)]
        seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
        with _drawing_from(seed, members):
            self._assemble(members)
            self._check_shapes(h, self.estimate(h, *context))

    def remap(self, origin: Origin, *, generator: torch.Generator, axis: int) -> None:
        """Follow a change of the units of h, as `Remappable.remap`.

        Where no unit is kept, nothing that was learned is about those that are there: the networks begin anew.
        """
        if self.optimizer is None:
            return
        check_units(self.templates, origin, axis)
        slots_of(self.optimizer)
        changes = changes_of(self.networks[0], origin, self.templates[0])
        if origin.is_identity:
            return
        if len(origin.fresh) == origin.num_new:
            template = _resized(self.templates[0], origin)
            resized = template.new_zeros((1, *template.shape[1:]))
            seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
            with _drawing_from(seed, [resized]):
                self._assemble([resized])
            return
        follow_(self.networks[0], changes, optimizer=self.optimizer)
        self._has_followed(origin)

    def estimate(self, h: Members, *context: Tensor) -> Members:
        """What the networks predict, shaped as `h`; changes no state."""
        with torch.no_grad(), self._statistics_kept() if self._norms else nullcontext():
            return like(h, [network(member, *context) for network, member in self._pairs(h)])

    def learn(self, h: Members, gradient: Members, *context: Tensor, step: int) -> float:
        """One step on the squared error, summed over features and averaged over samples; returns it.

        The gradients are per sample and so is this loss: neither the size of what is fitted nor that of the
        fit's own gradient depends on N, so one learning rate serves every microbatch size. With a
        mean-reduced task loss the targets would carry 1/N, and the synthesizer would learn slowly or, under
        SGD, not at all.
        """
        optimizer = self._optimizer_at(step)
        optimizer.zero_grad()
        value = self.squared_error(h, gradient, *context) / num_samples(h)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return value.item()

    def descend(self, loss: Callable[[], Tensor], *, step: int) -> float:
        """One step on `loss`, a scalar made with the networks, maybe of gradients at h; returns it."""
        optimizer = self._optimizer_at(step)
        optimizer.zero_grad()
        value = loss()
        # Named, so that a loss made of gradients at h is not differentiated with respect to h once more.
        torch.autograd.backward(value, inputs=self._learned)
        optimizer.step()
        return value.item()

    def squared_error(self, h: Members, gradient: Members, *context: Tensor) -> Tensor:
        """||network(h, *context) - gradient||², summed over members, features and samples; a scalar."""
        errors = [
            F.mse_loss(network(member, *context), target.detach(), reduction="sum")
            for (network, member), target in zip(self._pairs(h), carriers(gradient), strict=True)
        ]
        return _sum(errors)

    def total(self, h: Members, loss: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """`loss(network, member)` summed over members, a scalar."""
        return _sum([loss(network, member) for network, member in self._pairs(h)])

    def implied(self, h: Members, loss: Callable[[Any, Tensor], Tensor]) -> Tensor:
        """`loss(network, member)` summed over members, with its graph to the stage below.

        Raises:
            ValueError: a network has BatchNorm, which goes by the other samples, or dropout.
        """
        if self._unsteady:
            raise ValueError(
                "the networks of a source that implies a loss must work on each sample by itself, got "
                f"{', '.join(self._unsteady)}. Use batch_norm=False (of MLP, Convolutional, MLPHead), and no dropout."
            )
        return _sum([loss(network, member) for network, member in self._matched(h)])

    def implied_by_field(self, h: Members, *context: Tensor) -> Tensor:
        """The loss that predictions imply, as `ImpliesLoss`."""
        return self.implied(h, lambda network, member: field_loss(member, network(member, *context)))

    def _pairs(self, h: Members) -> Iterator[tuple[Any, Tensor]]:
        """Each network with its member of h, cut off from the stage below."""
        return ((network, member.detach()) for network, member in self._matched(h))

    def _matched(self, h: Members) -> Iterator[tuple[Any, Tensor]]:
        """Each network with its member of h.

        Raises:
            ValueError: the source was built for another number of members, or not at all.
        """
        members = carriers(h)
        if len(members) != len(self.networks):
            raise ValueError(
                f"h must have the {len(self.networks)} floating-point members that the source was built for, "
                f"got {len(members)}. Call build(h, generator=...) first."
            )
        return zip(self.networks, members, strict=True)

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "members": self._built,
            "followed": None if self._followed is None else self._followed.to_json(),
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Become ready to load the parameters: `load_state_dict` calls this before it visits the networks."""
        # A state from before units could change does not name it.
        followed = None if state.get("followed") is None else Origin.from_json(state["followed"])
        if _kinds(state["members"]) != _kinds(self._built) or followed != self._followed:
            # Only shapes are read; what is drawn is overwritten.
            members = [template.new_zeros((1, *template.shape[1:])) for template in state["members"]]
            with _drawing_from(0, members):
                self._assemble(members)
            if followed is not None:
                assert self.optimizer is not None
                changes = changes_of(self.networks[0], followed, self.templates[0])
                follow_(self.networks[0], changes, optimizer=self.optimizer)
                self._has_followed(followed)
        if self.optimizer is not None:
            # Optimisers keep the tensors they are given; the source that they came from keeps learning in
            # them.
            self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))

    def _assemble(self, members: list[Tensor]) -> None:
        networks = [self._make(member).to(device=member.device, dtype=member.dtype) for member in members]
        self.networks = nn.ModuleList(networks).train()
        self.templates = [member.new_empty((0, *member.shape[1:])) for member in members]
        self._built, self._followed = self.templates, None
        self._norms = [
            module
            for module in self.networks.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        self._unsteady = sorted({type(each).__name__ for each in self.networks.modules() if _is_unsteady(each)})
        self._learned = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]
        self.optimizer = self._make_optimizer(self.networks.parameters()) if members else None
        for group in self.optimizer.param_groups if self.optimizer else ():
            group["initial_lr"] = group["lr"]

    def _has_followed(self, origin: Origin) -> None:
        """Keep what is known of the networks in step with them."""
        self.templates = [_resized(template, origin) for template in self.templates]
        self._followed = origin if self._followed is None else self._followed.then(origin)
        self._learned = [parameter for parameter in self.networks.parameters() if parameter.requires_grad]

    def _check_shapes(self, h: Members, estimate: Members) -> None:
        for index, (member, found) in enumerate(zip(carriers(h), carriers(estimate), strict=True)):
            if found.shape != member.shape:
                raise ValueError(
                    f"a synthesizer must return its member's shape {tuple(member.shape)}, got "
                    f"{tuple(found.shape)}, at floating-point member {index} of h, from "
                    f"{type(self.networks[index]).__name__}. Make its last layer end in h's shape."
                )

    def _optimizer_at(self, step: int) -> torch.optim.Optimizer:
        if self.optimizer is None:
            raise ValueError("a source must be built before it learns. Call build(h, generator=...) first.")
        factor = self._schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return self.optimizer

    @contextmanager
    def _statistics_kept(self) -> Iterator[None]:
        """Let BatchNorm use the batch's statistics and move neither its running ones nor their count."""
        for norm in self._norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in self._norms:
                norm.track_running_stats = True


def _is_unsteady(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) or (isinstance(module, _DropoutNd) and module.p > 0)


def _resized(template: Tensor, origin: Origin) -> Tensor:
    """A tensor of no samples for the units that follow."""
    shape = list(template.shape)
    shape[unit_axis(template)] = origin.num_new
    return template.new_empty(shape)


def _sum(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).sum()


def _kinds(members: list[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(member.shape, member.dtype) for member in members]


@contextmanager
def _drawing_from(seed: int, members: list[Tensor]) -> Iterator[None]:
    """Let modules, which draw from process-global generators, draw from `seed`; put the generators back."""
    devices = sorted({member.device.index for member in members if member.is_cuda})
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed: it would also seed the devices that were not put aside.
        torch.default_generator.manual_seed(seed)
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        yield
