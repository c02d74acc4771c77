"""How does something get onto TensorBoard?

A board is one run of TensorBoard, a folder of event files. All scalars of a moment go into one event, which costs a
fraction of one event each, and a tag says what it means when it is first written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    HistogramProto,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.plugins.histogram import metadata as histogram_plugin
from tensorboard.plugins.image import metadata as image_plugin
from tensorboard.plugins.scalar import metadata as scalar_plugin
from tensorboard.plugins.text import metadata as text_plugin
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from pipeline.records.tags import describe
from pipeline.stages.histogram import Histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Board", "board_of"]

_FLUSH_S = 10
"""Seconds until what was written is on disk, whatever happens."""
_DOTS_PER_INCH = 200
"""TensorBoard shows a picture some 320 pixels wide, and at its own size where one asks for it."""


def board_of(stage: int) -> str:
    """The name of a stage's board; with two digits, because TensorBoard sorts its runs as words."""
    return f"stage-{stage:02}"


class Board:
    """Writes one run of TensorBoard; as a context manager, it is closed at the end of the block.

    TensorBoard reads the files of a folder one after the other, so two processes never write the same board, and one
    that is written for the whole of a run gets no second file meanwhile.

    Args:
        run: the run's folder.
        name: of the board, as `stage-00`; a folder in RUN/tensorboard.
        part: if given, what is written now takes the place of what was written before as this part of the board.
        since: the step that a run goes on from; what was written of later steps is hidden.
    """

    def __init__(self, run: Path, name: str, *, part: str = "", since: int = 0) -> None:
        folder = run / "tensorboard" / name
        if part:
            self.remove(run, name, part=part)
        self._writer = EventFileWriter(str(folder), flush_secs=_FLUSH_S, filename_suffix=f".{part}" if part else "")
        self._described: set[str] = set()
        if since:  # what makes TensorBoard forget later steps
            self._add(Event(step=since, file_version="brain.Event:2"))
            self._add(Event(step=since, session_log=SessionLog(status=SessionLog.START)))

    @staticmethod
    def remove(run: Path, name: str, *, part: str) -> None:
        """Remove a part of a board, if it is there."""
        for path in (run / "tensorboard" / name).glob(f"events.out.tfevents.*.{part}"):
            path.unlink()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of one step, by tag."""
        self.summary(
            Summary(
                value=[
                    Summary.Value(
                        tag=tag, simple_value=value, metadata=self._metadata(tag, scalar_plugin, DATA_CLASS_SCALAR)
                    )
                    for tag, value in values.items()
                ]
            ),
            step,
        )

    def histogram(self, tag: str, histogram: Histogram, step: int) -> None:
        """How the entries of a tensor are spread."""
        bins = HistogramProto(
            min=histogram.low,
            max=histogram.high,
            num=sum(histogram.counts),
            sum=histogram.total,
            sum_squares=histogram.total_squares,
            bucket_limit=histogram.limits,
            bucket=histogram.counts,
        )
        described = self._metadata(tag, histogram_plugin, DATA_CLASS_TENSOR)
        self.summary(Summary(value=[Summary.Value(tag=tag, histo=bins, metadata=described)]), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """A text."""
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()], tensor_shape=shape)
        described = self._metadata(tag, text_plugin, DATA_CLASS_TENSOR)
        self.summary(Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=tensor)]), step)

    def picture(self, tag: str, figure: Figure, step: int) -> None:
        """A drawing."""
        file = BytesIO()
        figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
        width, height = (round(inches * _DOTS_PER_INCH) for inches in figure.get_size_inches())
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=file.getvalue())
        described = self._metadata(tag, image_plugin, DATA_CLASS_BLOB_SEQUENCE)
        self.summary(Summary(value=[Summary.Value(tag=tag, image=image, metadata=described)]), step)

    def summary(self, summary: Summary, step: int) -> None:
        """What TensorBoard's plugins understand, as it is."""
        self._add(Event(summary=summary, step=step))

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _metadata(self, tag: str, plugin: ModuleType, data_class: int) -> SummaryMetadata | None:
        """What a tag means and which plugin shows it; TensorBoard looks for it where the tag comes first."""
        if tag in self._described:
            return None
        self._described.add(tag)
        metadata: SummaryMetadata = plugin.create_summary_metadata(display_name="", description=describe(tag))
        metadata.data_class = data_class  # without it, the description is lost
        return metadata

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.add_event(event)
