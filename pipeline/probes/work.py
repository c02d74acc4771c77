"""What is still to be measured of which run at which checkpoint, and how is it done?"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dni import num_samples
from pipeline.errors import CheckpointError, ConfigurationError
from pipeline.probes.curvature import probe_curvature, rates_over_time
from pipeline.probes.hessian import check_same_layers, compare_hessians, probe_hessian
from pipeline.probes.kept import KeptFindings
from pipeline.probes.landscape import probe_landscape
from pipeline.probes.network import Network, Samples, take_samples
from pipeline.probes.probe import Compare, OnProgress, Probe
from pipeline.probes.probed_run import ProbedRun
from pipeline.probes.representations import (
    compare_representations,
    probe_representations,
    representations_over_time,
)
from pipeline.probes.settings import ProbeSettings
from pipeline.records.drawings import draw
from pipeline.records.findings import Curves, Matrix, Scalar, Surface, read_findings, write_findings
from pipeline.records.publish import publish

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ProbeWork", "Task", "What"]

What: TypeAlias = Literal["curvature", "representations", "hessian", "landscape"]

_PROBES: Mapping[What, Probe] = {
    "curvature": probe_curvature,
    "representations": probe_representations,
    "hessian": probe_hessian,
    "landscape": probe_landscape,
}
_COMPARE: Mapping[What, Compare] = {"representations": compare_representations, "hessian": compare_hessians}
_SAMPLES: Mapping[What, int] = {"curvature": 1000, "representations": 4000, "hessian": 500, "landscape": 500}
_DECIDING: Mapping[What, tuple[str, ...]] = {
    "curvature": ("split", "direction"),
    "representations": ("split", "layers", "batch"),
    "hessian": ("split", "layers", "top", "draws", "seed"),
    "landscape": ("split", "points", "reach", "seed"),
}
"""Settings that change what is found."""
_KINKED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
"""Layers whose derivatives jump."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One thing to be measured."""

    words: str
    """What, of which run, at which checkpoint."""
    run: Callable[[OnProgress], None]


class ProbeWork:
    """All that a call of the probe is to measure.

    Args:
        folders: of the runs; the later ones are compared with the first.
        what: is measured.
        at: at which checkpoints, as `ProbedRun.find`.
        settings: how.
        again: whether findings that are there are thrown away.

    Raises:
        ConfigurationError: a run, a checkpoint or the samples are not there, or runs cannot be compared.
    """

    def __init__(
        self, folders: Sequence[Path], what: Sequence[What], at: Sequence[str], settings: ProbeSettings, *, again: bool
    ) -> None:
        if len({folder.resolve() for folder in folders}) < len(folders):
            raise ConfigurationError(f"each run must be named once, got {', '.join(map(str, folders))}.")
        self._settings, self._again = settings, again
        self._spares_missing = "all" in at
        self._what = tuple(dict.fromkeys(what))
        self._runs = [ProbedRun(folder, device=settings.device) for folder in folders]
        self._digests = {run.folder: run.find(at) for run in self._runs}
        self._samples = {(run.folder, each): self._taken(run, each) for run in self._runs for each in self._what}
        self._network: Network | None = None
        self._network_of: Path | None = None
        self._kept: list[KeptFindings] = []
        self._check_comparable()
        self.tasks = [task for run in self._runs for task in self._of_run(run)]
        """What is to be measured, in order."""

    def publishing(self) -> list[Task]:
        """Put all that is found onto TensorBoard, in place of what is there."""
        return [Task(words=f"pictures of {run.name}", run=partial(self._publish, run)) for run in self._runs]

    def notes(self) -> list[str]:
        """What a reader of the findings has to know."""
        stages = [stage for run in self._runs for stage in run.prepared.cut.stages]
        kinks = {type(own).__name__ for stage in stages for own in stage.modules() if isinstance(own, _KINKED)}
        if not kinks or not {"curvature", "hessian"} & set(self._what):
            return []
        return [
            f"the loss has kinks ({', '.join(sorted(kinks))}): derivatives are those of the smooth piece that a "
            "checkpoint lies on, without what the kinks between the pieces add to the curvature."
        ]

    def lines(self) -> list[str]:
        """What is kept by now, in words."""
        return [
            f"{kept.path}: step {', '.join(f'{step:,}' for step in kept.complete) or 'none is complete yet'}"
            for kept in self._kept
        ]

    def _of_run(self, run: ProbedRun) -> Iterator[Task]:
        digests = self._digests[run.folder]
        kept = {what: self._open(run, what, what, {}) for what in self._what}
        missing = {what: own.missing(digests) for what, own in kept.items()}
        for step in digests:
            for what in self._what:
                if step in missing[what]:
                    probe = partial(self._probe, run, what, kept[what], step, digests[step])
                    yield Task(words=f"{what} of {run.name} at step {step:,}", run=probe)
        for what in ("curvature", "representations"):
            path = run.folder / "findings" / f"{what}-over-time.jsonl"
            if self._again and what in self._what:
                path.unlink(missing_ok=True)
            if what in self._what and len(digests) > 1 and (missing[what] or not path.exists()):
                overview = partial(self._over_time, run, what, kept[what], path)
                yield Task(words=f"{what} of {run.name} over time", run=overview)
        if run is not self._runs[0]:
            yield from self._against(run, self._runs[0])

    def _against(self, run: ProbedRun, reference: ProbedRun) -> Iterator[Task]:
        pairs = self._pairs(run, reference)
        own, others = self._digests[run.folder], self._digests[reference.folder]
        digests = {step: f"{own[step]} {others[other]}" for step, other in pairs.items()}
        for what in self._what:
            if what in _COMPARE:
                kept = self._open(
                    run, f"{what}-beside-{reference.name}", what, {"reference": str(reference.folder.resolve())}
                )
                for step in kept.missing(digests):
                    compare = partial(self._compare, run, reference, what, kept, step, pairs[step], digests[step])
                    yield Task(words=f"{what} of {run.name} beside {reference.name} at step {step:,}", run=compare)

    def _pairs(self, run: ProbedRun, reference: ProbedRun) -> dict[int, int]:
        """For the checkpoints of a run those of the reference: of the same step, and the last beside the last."""
        own, others = list(self._digests[run.folder]), list(self._digests[reference.folder])
        return {step: step for step in own if step in others} | ({} if own[-1] in others else {own[-1]: others[-1]})

    def _probe(
        self, run: ProbedRun, what: What, kept: KeptFindings, step: int, digest: str, on_progress: OnProgress
    ) -> None:
        samples = self._samples[run.folder, what]
        with self._blamed(what, run, [step]):
            network = self._network_at(run, step)
            kept.begin(step)
            kept.extend(_PROBES[what](network, samples, self._settings, on_progress))
            kept.finish(step, digest)

    def _compare(
        self,
        run: ProbedRun,
        reference: ProbedRun,
        what: What,
        kept: KeptFindings,
        step: int,
        other: int,
        digest: str,
        on_progress: OnProgress,
    ) -> None:
        samples = self._samples[reference.folder, what]
        with self._blamed(f"{what} beside {reference.folder}", run, [step]):
            networks = run.network(step, samples), reference.network(other, samples)
            kept.begin(step)
            kept.extend(_COMPARE[what](*networks, samples, self._settings, on_progress))
            kept.finish(step, digest)

    def _over_time(self, run: ProbedRun, what: What, kept: KeptFindings, path: Path, on_progress: OnProgress) -> None:
        if what == "curvature":
            write_findings(path, rates_over_time(kept.read()))
            return
        steps = [step for step in self._digests[run.folder] if step in kept.complete and run.has(step)]
        if len(steps) < 2:
            return
        samples = self._samples[run.folder, what]
        with self._blamed(f"{what} over time", run, steps):
            earlier = (run.network(step, samples) for step in steps[:-1])
            last = run.network(steps[-1], samples)
            write_findings(path, representations_over_time(earlier, last, samples, self._settings, on_progress))

    def _publish(self, run: ProbedRun, on_progress: OnProgress) -> None:
        """All of what was asked for: TensorBoard has the findings of a family together."""
        paths = sorted((run.folder / "findings").glob("*.jsonl"))
        findings = [f for path in paths for f in read_findings(path) if f.tag.partition("/")[0] in self._what]
        num_pictures, drawn = sum(not isinstance(finding, Scalar) for finding in findings), itertools.count()

        def shown(finding: Curves | Matrix | Surface) -> Figure:
            on_progress("pictures", next(drawn), num_pictures)
            return draw(finding)

        publish(run.folder, findings, shown)

    def _network_at(self, run: ProbedRun, step: int) -> Network:
        """Of several things that are measured of a checkpoint, the first one loads it."""
        if self._network is None or self._network_of != run.folder or self._network.step != step:
            self._network = run.network(step, self._samples[run.folder, self._what[0]])
            self._network_of = run.folder
        return self._network

    def _taken(self, run: ProbedRun, what: What) -> Samples:
        return take_samples(
            run.prepared,
            split=self._settings.split,
            wanted=self._settings.samples,
            default=_SAMPLES[what],
            batch=self._settings.batch,
            device=run.device,
        )

    def _open(self, run: ProbedRun, name: str, what: What, more: Mapping[str, Any]) -> KeptFindings:
        samples = self._samples[run.folder, what]
        deciding = {each: getattr(self._settings, each) for each in _DECIDING[what]}
        settings = {"samples": sum(num_samples(x) for x, _ in samples), **deciding, **more}
        kept = KeptFindings(run.folder, name, settings=settings, again=self._again)
        self._kept.append(kept)
        return kept

    def _check_comparable(self) -> None:
        """Before anything is measured, whether the networks at the end are alike enough."""
        reference = self._runs[0]
        for run in self._runs[1:] if "hessian" in self._what else ():
            samples = self._samples[reference.folder, "hessian"]
            step, other = list(self._pairs(run, reference).items())[-1]
            with self._blamed(f"hessian beside {reference.folder}", run, [step]):
                check_same_layers(run.network(step, samples), reference.network(other, samples), self._settings)

    @contextmanager
    def _blamed(self, what: str, run: ProbedRun, steps: Sequence[int]) -> Iterator[None]:
        """What cannot be found out is the caller's to know, with its place."""
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
                yield
        except CheckpointError:
            gone = [step for step in steps if not run.has(step)]
            if not gone or not self._spares_missing:
                raise
            step = ", ".join(map(str, gone))
            warnings.warn(f"the run has removed the checkpoint of step {step} meanwhile: it is left out.", stacklevel=3)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ConfigurationError(f"{what} of {run.folder} at step {steps[-1]}: {error}") from error
