"""Which checkpoints of a run can be looked at, and what network is in one?"""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.clock import WallClock
from pipeline.configuration.loading import fingerprint
from pipeline.configuration.parsing import recorded_config
from pipeline.configuration.run import build_stage, choose_device, prepare
from pipeline.errors import CheckpointError, ConfigurationError
from pipeline.learners.naming import Naming
from pipeline.messages import Drain
from pipeline.probes.network import Network, Samples
from pipeline.randomness.keyed import generator, undisturbed
from pipeline.records import checkpoint
from pipeline.records.manifest import checkpoint_folder, saved_steps, verify
from pipeline.stages.stage import Stage

__all__ = ["ProbedRun"]


class ProbedRun:
    """A run, finished or not, as its folder holds it. Nothing is written to it here.

    Args:
        folder: the run's.
        device: where its networks are put: auto, cpu or cuda.

    Raises:
        ConfigurationError: it is no run's folder, or its configuration can no longer be had.
    """

    def __init__(self, folder: Path, *, device: str) -> None:
        record, config = recorded_config(folder)
        self.folder = folder
        self.prepared = prepare(config)
        self.device = choose_device(device)
        if record.sha256 != fingerprint(record.config):
            warnings.warn(
                f"{record.config} has changed since {folder} was started: networks come from the checkpoints, but "
                "losses, sources and data are those of today's file.",
                stacklevel=2,
            )

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    @property
    def checkpoints(self) -> Path:
        """Where they are."""
        return self.folder / "checkpoints"

    def find(self, at: Sequence[str]) -> dict[int, str]:
        """The checkpoints that are meant, by step, in order, each with a digest of what it holds.

        Args:
            at: steps, `all`, `last`. Of all, those that are damaged are left out, and named in a warning.

        Raises:
            ConfigurationError: a word is none of these, or there is no checkpoint of a step.
            CheckpointError: there is none, or one that was asked for by its step is damaged.
        """
        there = saved_steps(self.checkpoints)
        found: dict[int, str] = {}
        for word in at if there else ():
            if word == "all":
                found |= {step: digest for step in there if (digest := self._digest_if_whole(step))}
            elif word == "last":
                step = checkpoint.latest(self.checkpoints)[1].step
                found[step] = self._digest(step)
            elif word.isdecimal() and int(word) in there:
                found[int(word)] = self._digest(int(word))
            else:
                raise ConfigurationError(
                    f"--at takes all, last, or steps of checkpoints, got {word}; {self.folder} has them at step "
                    f"{', '.join(map(str, there))}."
                )
        if not found:
            checkpoint.latest(self.checkpoints)  # says what is wrong with each
        return dict(sorted(found.items()))

    def has(self, step: int) -> bool:
        """Whether the checkpoint is there; a run that goes on removes old ones."""
        return step in saved_steps(self.checkpoints)

    def network(self, step: int, samples: Samples) -> Network:
        """The network at a checkpoint; of a finished run with what its accumulators still held.

        Args:
            step: of the checkpoint.
            samples: what a source that was never asked is built for.

        Raises:
            CheckpointError: it is damaged, gone, of another model, or holds what is not finite.
        """
        folder = checkpoint_folder(self.checkpoints, step)
        manifest = verify(folder)
        prepared = self.prepared.copied()  # a checkpoint from after events makes other layers of them
        with undisturbed():
            stages = [
                build_stage(prepared, index, clock=WallClock(), device=self.device)
                for index in range(prepared.num_stages)
            ]
            checkpoint.load(folder, stages, manifest)
            for stage in stages:
                _check_finite(stage, folder)
                stage.handle(Drain(step=manifest.step, finish=manifest.finished))
                stage.resume()
            states = [stage.state_dict() for stage in stages]
            naming = tuple(map(Naming, prepared.cut.prefixes))
            network = Network(
                run=self.name,
                step=step,
                stages=tuple(stage.module.eval() for stage in stages),
                naming=naming,
                sources=prepared.sources,
                loss=prepared.config.loss,
                masks=dict(itertools.chain.from_iterable(map(_masks, stages, naming, states))),
                device=self.device,
            )
            self._build_sources(network, [state["source"] is not None for state in states], samples)
        return network

    def _build_sources(self, network: Network, built: Sequence[bool], samples: Samples) -> None:
        h = samples[0][0]
        for index, source in enumerate(network.sources):
            with torch.no_grad():
                h = network.stages[index](h)
            if not built[index]:
                source.build(h, generator=generator(self.prepared.config.seed, f"source/{index}", 0))

    def _digest(self, step: int) -> str:
        """Another one if the run has gone through this step again with other weights.

        Raises:
            CheckpointError: it is damaged.
        """
        files = verify(checkpoint_folder(self.checkpoints, step)).files
        return hashlib.sha256("".join(files[name].sha256 for name in sorted(files)).encode()).hexdigest()

    def _digest_if_whole(self, step: int) -> str | None:
        try:
            return self._digest(step)
        except CheckpointError as error:
            warnings.warn(f"{error} It is left out.", stacklevel=4)
            return None


def _masks(stage: Stage, naming: Naming, state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """By key."""
    local = {full: name for name, full in naming.of(stage.module).items()}
    for name, mask in state["masks"].items():
        yield f"{stage.index}.{local[name]}", mask


def _check_finite(stage: Stage, folder: Path) -> None:
    for name, own in stage.named_tensors().items():
        if own.is_floating_point() and not bool(own.isfinite().all()):
            raise CheckpointError(
                f"{folder} holds numbers that are not finite in {name} of stage {stage.index}: the run has diverged. "
                "Look at an earlier checkpoint: --at STEP."
            )
