"""What does a source add to a network: numbers, arithmetic, and bytes between stages?

    python -m experiments.one_family.cost

Plays a few steps of every row, stage by stage, and counts; nothing is timed, so the figures are the same everywhere.
Each row's are appended to costs.jsonl.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dni import GradientSource, Members, NoGradient, Signal, as_tuple
from experiments.machine import machine
from experiments.one_family.config import BATCH_SIZE, NETS, ROWS, bare_config
from experiments.one_family.results import FOLDER
from experiments.records import append_line
from pipeline import Config, prepare
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, make_feed, make_inbox
from pipeline.messages import Activation, Gradient, Message, OutputError, Payload, Send
from pipeline.stages.stage import Stage
from pipeline.virtual_time.costs import virtual_clock
from pipeline.virtual_time.simulator import simulate

__all__ = ["Cost", "Flops", "main", "measure"]

_STEPS = 4
"""Of each row. A step is like another; those that a policy makes syncs compute and send the same."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of all boundaries together, and of one sample where that makes sense."""

    learned: int
    """Numbers that sources learn."""
    fixed: int
    """Numbers that are drawn once: matrices of direct feedback, weights of the way back."""
    source_flops: float
    """Of a sample, in sources: estimating and learning."""
    flops: float
    """Of a sample, in all: forward (also once more), backward, sources. Matrix products and convolutions."""
    up_bytes: float
    """Of a sample, from stage to stage: activations with their labels."""
    down_bytes: float
    """Of a sample, from stage to stage: gradients."""
    error_bytes: float
    """Of a sample, from the last stage to the others: errors at the output, and losses."""


class Flops(TorchDispatchMode):
    """Counts matrix products and convolutions by PyTorch's formulas, whoever does them, forward and backward.

    `FlopCounterMode` would also follow modules, with hooks that refuse `torch.autograd.grad` at a module's input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._formulas = FlopCounterMode(display=False).flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


class Counted(nn.Module):
    """A source, and the arithmetic that it does.

    Args:
        source: acts and learns.
        counter: counts everything.
    """

    def __init__(self, source: GradientSource, counter: Flops) -> None:
        super().__init__()
        self.source = source
        self.needs = source.needs
        self.learns_from = source.learns_from
        self.flops = 0
        self._counter = counter

    def build(self, h: Members, *, generator: torch.Generator) -> None:
        self.source.build(h, generator=generator)

    def estimate(self, h: Members, signal: Signal) -> Members | None:
        before = self._counter.total
        estimate = self.source.estimate(h, signal)
        self.flops += self._counter.total - before
        return estimate

    def learn(self, h: Members, signal: Signal) -> float:
        before = self._counter.total
        loss = self.source.learn(h, signal)
        self.flops += self._counter.total - before
        return loss


def measure(config: Config, *, batch_size: int = BATCH_SIZE) -> Cost:
    """Play a run, play one of twice as many steps, and count what the second half adds.

    So what happens once (a source is built) is not counted.

    Args:
        config: the run; whole microbatches, without evaluations.
        batch_size: samples of a microbatch.
    """
    half, whole = (_count(replace(config, steps=steps)) for steps in (config.steps, 2 * config.steps))
    num_samples = config.steps * batch_size

    def per_sample(name: str) -> float:
        return (whole[name] - half[name]) / num_samples

    return Cost(
        learned=half["learned"],
        fixed=half["fixed"],
        source_flops=per_sample("source"),
        flops=per_sample("all"),
        up_bytes=per_sample("up"),
        down_bytes=per_sample("down"),
        error_bytes=per_sample("error"),
    )


def main() -> int:
    """Count every row on every network."""
    torch.set_num_threads(1)
    console = Console()
    where = machine()
    for net in NETS:
        for row in ROWS:
            cost = measure(bare_config(row, net, steps=_STEPS))
            append_line({"row": row, "net": net, **asdict(cost), "machine": where}, FOLDER / "costs.jsonl")
            console.print(f"{row}, {net}: {cost}", highlight=False)
    return 0


def _count(config: Config) -> Counter[str]:
    """Of a whole run: numbers of its sources, FLOPs of them and of all, and bytes by the way they go."""
    prepared = prepare(config)
    counter = Flops()
    below = [source if isinstance(source, NoGradient) else Counted(source, counter) for source in prepared.sources[:-1]]
    found: Counter[str] = Counter()
    with counter:
        stages = _play(replace(prepared, sources=(*below, prepared.sources[-1])), found)
    parameters = [p for source in below for p in source.parameters()]
    back = [b for stage in stages for name, b in stage.module.named_buffers() if name.endswith(".feedback")]
    found["learned"] = sum(p.numel() for p in parameters if p.requires_grad)
    found["fixed"] = sum(p.numel() for p in parameters if not p.requires_grad) + sum(b.numel() for b in back)
    found["source"] = sum(source.flops for source in below if isinstance(source, Counted))
    found["all"] = counter.total
    return found


def _play(prepared: Prepared, found: Counter[str]) -> list[Stage]:
    """Run in fixed order; what crosses between stages is added to `found`, in bytes."""
    costs = prepared.config.costs
    clock = virtual_clock(costs, num_stages=prepared.num_stages)
    stages = [build_stage(prepared, index, clock=clock) for index in range(prepared.num_stages)]

    def note(sender: int, send: Send) -> None:
        if send.to != sender:
            found.update(_bytes_of(send.message))

    simulate(
        stages,
        make_feed(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(prepared.num_stages)],
        clock=clock,
        costs=costs,
        on_drained=lambda stage, drain: None,
        on_send=note,
    )
    return stages


def _bytes_of(message: Message) -> dict[str, int]:
    """Of the tensors, by the way they go."""
    match message:
        case Activation(h=h, target=target):
            return {"up": _num_bytes(h) + _num_bytes(target)}
        case Gradient(value=value):
            return {"down": _num_bytes(value)}
        case OutputError(value=value, loss_per_sample=loss):
            return {"error": _num_bytes(value) + _num_bytes(loss)}
    return {}


def _num_bytes(payload: Payload | None) -> int:
    members: tuple[Any, ...] = () if payload is None else as_tuple(payload)
    return sum(member.numel() * member.element_size() for member in members if member is not None)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
