"""What has been written onto a board of TensorBoard?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata


class Boards:
    """The boards of a run, as TensorBoard would read them."""

    def __init__(self, run: Path) -> None:
        folder = run / "tensorboard"
        names = {str(path.parent.relative_to(folder)) for path in folder.rglob("events.out.tfevents.*")}
        everything = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
        self.all = {name: EventAccumulator(str(folder / name), everything).Reload() for name in sorted(names)}

    def scalars(self, board: str) -> dict[str, list[tuple[int, float]]]:
        """Step and value by tag."""
        events = self.all[board]
        return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    def texts(self, board: str, tag: str) -> list[tuple[int, str]]:
        """Step and text."""
        return [(each.step, each.tensor_proto.string_val[0].decode()) for each in self.all[board].Tensors(tag)]

    def description(self, board: str, tag: str) -> str:
        """What TensorBoard says that the tag means."""
        return str(self.all[board].SummaryMetadata(tag).summary_description)

    def session(self, board: str = "run") -> tuple[dict[str, Any], int | None]:
        """The settings and the status that the HParams tab shows; None: the run is not over."""
        found = self.all[board].PluginTagToContent("hparams")
        start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG])
        settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
        if metadata.SESSION_END_INFO_TAG not in found:
            return settings, None
        end = metadata.parse_session_end_info_plugin_data(found[metadata.SESSION_END_INFO_TAG])
        return settings, int(end.status)
