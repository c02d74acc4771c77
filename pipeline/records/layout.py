"""Which charts stand side by side in TensorBoard's Custom Scalars tab?

A chart there takes all tags that a pattern matches, of all runs; as each stage is a run, the stages lie over one
another. A chart is left out where the run measures nothing for it. TensorBoard joins the layouts of all runs that it
shows, and the same chart of two runs is one, so runs can be compared there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from pipeline.configuration.prepared import Prepared

__all__ = ["Charts", "charts_of", "layout"]

Charts: TypeAlias = Mapping[str, Mapping[str, str]]
"""By category and title, the pattern of the tags in a chart."""

_SYNC = {
    "cosine at sync, all stages": "sync/cosine/activations",
    "cosine at sync, of the weights' gradients": "sync/cosine/parameters",
    "norm ratio at sync": "sync/norm_ratio/activations",
    "projection at sync": "sync/projection/activations",
    "relative error at sync": "sync/relative_error/activations",
}
_PROBE = {
    "cosine at the probe, all stages": "probe/cosine/activations",
    "cosine at the probe, of the weights' gradients": "probe/cosine/parameters",
}
_TIME = {
    "staleness, all stages": "pipeline/staleness$",
    "fresh: share of time in work that is used": "pipeline/fresh",
    "waiting: share of time with nothing to do": "pipeline/waiting",
    "dropped: share of time in work for nobody": "pipeline/dropped",
    "samples per second": "pipeline/samples_per_s",
}
_STRUCTURE = {
    "parameters of each stage": "structure/parameters",
    "MFLOP per sample": "structure/mflop_per_sample",
    "width of each layer": "width/",
    "density of each weight": "density/",
}
_UPDATES = {
    "relative length of updates": "update/relative/",
    "angle of updates": "update/angle/",
    "norm of each weight": "update/weight_norm/",
}


def charts_of(prepared: Prepared) -> Charts:
    """The charts of a run, those of what it measures."""
    config = prepared.config
    below = prepared.sources[:-1]
    learning = {"training loss": "loss/train", "test loss": "loss/test", "test accuracy": "accuracy/test"}
    if not prepared.outline.evaluates:
        learning = {"training loss": "loss/train"}
    if any(source.learns_from for source in below):
        learning["loss of the sources, all stages"] = "source/loss"
    quality: dict[str, str] = {}
    if below and config.syncs:
        quality |= _SYNC
    if below and config.probe_samples:
        quality |= _PROBE
    charts = {
        "learning": learning,
        "gradient quality": quality,
        "pipeline": _TIME if below else {"samples per second": _TIME["samples per second"]},
        "structure": _STRUCTURE if config.events else {},
        "updates": _UPDATES if config.measure_updates_every else {},
    }
    return {category: own for category, own in charts.items() if own}


def layout(charts: Charts) -> Summary:
    """What tells TensorBoard of the charts."""
    categories = [
        layout_pb2.Category(
            title=category,
            chart=[
                layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))
                for title, pattern in own.items()
            ],
        )
        for category, own in charts.items()
    ]
    content = layout_pb2.Layout(category=categories).SerializeToString()
    tensor = TensorProto(dtype="DT_STRING", string_val=[content])
    described = metadata.create_summary_metadata()
    return Summary(value=[Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=described, tensor=tensor)])
