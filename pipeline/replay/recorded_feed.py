"""What entered the first stage, made again from that stage's own record."""

from __future__ import annotations

from pipeline.configuration.prepared import Prepared
from pipeline.errors import ReplayError, blaming
from pipeline.messages import Activation, Drain, Message, Stop
from pipeline.records.order import step_of

__all__ = ["RecordedFeed"]


class RecordedFeed:
    """The messages of a feed, by how they were recorded.

    Args:
        prepared: the run, with its data.
        start: the step to begin at.
    """

    def __init__(self, prepared: Prepared, *, start: int) -> None:
        assert prepared.train is not None
        self._step = start
        self._train = prepared.train.start(start)
        self._test = prepared.test
        self._probe = prepared.probe

    def message(self, line: str) -> Message:
        """The message that was recorded as `line`."""
        step = step_of(line)
        match line[0]:
            case "A":
                if step != self._step:
                    raise ReplayError(
                        f"the record of stage 0 has {line} where A{self._step} should be: it was changed."
                    )
                self._step += 1
                with blaming(0, step=step, phase="data"):
                    x, target = next(self._train)
                return Activation(step=step, h=x, target=target)
            case "E":
                if step >= len(self._test):
                    raise ReplayError(
                        f"the record of stage 0 has {line}, evaluation batch {step}, but there are {len(self._test)}: "
                        "give the batches that the run was tested on."
                    )
                x, target = self._test[step]
                return Activation(step=step, h=x, target=target, training=False)
            case "P":
                if self._probe is None or step != self._probe.step:
                    raise ReplayError(f"the record of stage 0 has {line}, a probe, but this run sends none such.")
                return self._probe
            case "D":
                return Drain(step=step, save="s" in line, finish="f" in line)
        return Stop(step=step)
