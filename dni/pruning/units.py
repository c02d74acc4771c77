"""Where do the numbers of a unit lie: in the layer that makes it, in what normalises it, and in those that read it?

Letters: U units of a layer, C = U s its channels, s channels to a unit. A unit is a neuron or a channel (s = 1) or a
head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["UnitPlace"]

_MAKERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class UnitPlace:
    """The units of one layer. Names are those of modules within the network or the stage."""

    layer: str
    """Makes the units: Linear or Conv1d to Conv3d, without groups; a unit is `unit_size` rows of its weight."""
    readers: tuple[str, ...]
    """All that read them: Linear or Conv1d to Conv3d without groups. A Linear that reads a flattened convolution has
    as many columns for a channel as there are positions."""
    norms: tuple[str, ...] = ()
    """BatchNorm, LayerNorm or GroupNorm over the units, with one weight and bias a channel."""
    unit_size: int = 1
    """s; the width of a head."""

    def num_units(self, module: nn.Module) -> int:
        """U.

        Raises:
            ValueError: a name is of no module, or of one that cannot be in its place; or sizes do not divide.
        """
        channels = self._layer(module, self.layer).weight.shape[0]
        if self.unit_size < 1 or channels % self.unit_size:
            raise ValueError(f"{self.layer} has {channels} channels, which are no units of {self.unit_size} each.")
        for name in self.readers:
            inputs = self._layer(module, name).weight.shape[1]
            if inputs % channels:
                raise ValueError(
                    f"a reader of {self.layer} must have inputs for each of its {channels} channels, but {name} has "
                    f"{inputs}. Name the layers that read it directly."
                )
        for name in self.norms:
            norm = _find(module, name)
            weight = getattr(norm, "weight", None)
            if not isinstance(norm, _NORMS) or (weight is not None and weight.shape != (channels,)):
                raise ValueError(
                    f"a normalisation of {self.layer} must be a BatchNorm, LayerNorm or GroupNorm of its {channels} "
                    f"channels, but {name} is {norm}."
                )
        return int(channels // self.unit_size)

    def made_by(self, module: nn.Module, units: Sequence[int]) -> dict[str, Tensor]:
        """What makes some units, as a set of numbers: rows of the layer's weight and bias; state of the norms.

        Returns:
            bool by name of parameter or buffer, on its device.

        Raises:
            ValueError: as `num_units`; or there is no such unit.
        """
        channels = self._channels(module, units)
        names = [f"{self.layer}.weight", f"{self.layer}.bias"]
        names += [f"{norm}.{own}" for norm in self.norms for own in ("weight", "bias", "running_mean", "running_var")]
        state = _state(module)
        return {name: _along(channels, state[name], axis=0) for name in names if name in state}

    def read_by(self, module: nn.Module, units: Sequence[int]) -> dict[str, Tensor]:
        """What reads some units: columns of the readers' weights; see `made_by`."""
        channels = self._channels(module, units)
        state = _state(module)
        masks = {}
        for reader in self.readers:
            weight = state[f"{reader}.weight"]
            masks[f"{reader}.weight"] = _along(
                channels.repeat_interleave(weight.shape[1] // len(channels)), weight, axis=1
            )
        return masks

    def outgoing_norm(self, module: nn.Module) -> Tensor:
        """Σ|w| of all that reads each unit, (U,).

        Raises:
            ValueError: as `num_units`.
        """
        num_units = self.num_units(module)
        sums = [
            self._layer(module, name).weight.detach().abs().transpose(0, 1).reshape(num_units, -1).sum(1)
            for name in self.readers
        ]
        return torch.stack(sums).sum(0)

    def _channels(self, module: nn.Module, units: Sequence[int]) -> Tensor:
        num_units = self.num_units(module)
        for unit in units:
            if not 0 <= unit < num_units:
                raise ValueError(f"{self.layer} has units 0 to {num_units - 1}, there is no {unit}.")
        chosen = torch.zeros(num_units, dtype=torch.bool)
        chosen[list(units)] = True
        return chosen.repeat_interleave(self.unit_size)

    def _layer(self, module: nn.Module, name: str) -> nn.Linear:
        layer = _find(module, name)
        if not isinstance(layer, _MAKERS) or getattr(layer, "groups", 1) != 1 or "weight" not in layer._parameters:
            raise ValueError(
                f"units are made and read by Linear and Conv1d to Conv3d without groups, with a weight of their own, "
                f"but {name!r} is {layer}. Leave its units out."
            )
        return layer  # type: ignore[return-value]  # of any of them only the weight is looked at


def _find(module: nn.Module, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(module.named_modules())
    if name not in modules:
        raise ValueError(f"there is no layer {name!r}; there are {', '.join(filter(None, modules))}.")
    return modules[name]


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _along(chosen: Tensor, like: Tensor, *, axis: int) -> Tensor:
    """A set of rows (axis 0) or columns (axis 1) as one of numbers."""
    view = [1] * like.dim()
    view[axis] = -1
    return chosen.view(view).expand(like.shape).to(like.device)
