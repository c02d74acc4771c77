"""By which settings and which results are runs compared?

TensorBoard's HParams tab has a row for each run: its settings from the beginning, its results when it is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from pipeline.configuration.config import Config
from pipeline.configuration.prepared import Prepared

__all__ = ["Ending", "Setting", "ended", "results_of", "settings_of", "started"]

Setting: TypeAlias = str | float | bool
Ending: TypeAlias = Literal["finished", "interrupted", "failed"]

_STATUS = {
    "finished": api_pb2.STATUS_SUCCESS,
    "interrupted": api_pb2.STATUS_UNKNOWN,
    "failed": api_pb2.STATUS_FAILURE,
}
"""TensorBoard knows no interruption; a run that goes on has a status of its own."""
_WHERE_CHOSEN = (
    *("stash", "correction", "blocks", "participation", "update_probability", "events", "weight_decay", "clip_norm"),
    *("max_staleness", "queue", "send_every", "prefer", "rate_rule", "curvature"),
)
_LONGEST = 60
"""Characters of a setting."""


def settings_of(prepared: Prepared) -> dict[str, Setting]:
    """What distinguishes a run from others, flat: numbers where there is one, else a few words.

    Some settings are always there, others where they are not the default; what has no effect is left out, such as a
    delay with arrival ready.
    """
    config = prepared.config
    optimizers = _tuple(config.optimizer)
    fixed = config.arrival == "fixed"
    found: dict[str, Any] = {
        "executor": config.executor,
        "stages": prepared.num_stages,
        "source": _listed([type(source).__name__ for source in prepared.sources[:-1]]),
        "sync": config.sync,
        "optimizer": _listed([_name_of(optimizer) for optimizer in optimizers]),
        "lr": _listed([_rate_of(optimizer) for optimizer in optimizers]),
        "arrival": config.arrival,
        "delay" if fixed else "max_in_flight": _listed(config.delay if fixed else config.max_in_flight),
        "cadence": _listed(config.cadence),
        "steps": config.steps,
        "seed": config.seed,
    }
    if prepared.num_stages == 1:
        found = {name: found[name] for name in found.keys() - {"source", "sync", "arrival", "delay", "max_in_flight"}}
    defaults = Config.__dataclass_fields__
    for name in _WHERE_CHOSEN:
        if repr(value := getattr(config, name)) != repr(defaults[name].default):
            found[name] = len(value) if name in ("blocks", "events") else _listed(_tuple(value))
    return {name: _short(value) for name, value in found.items() if value is not None}


def results_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The results of a run by tag, from the content of its summary.json; what has no number is left out."""
    staleness = [stage["staleness_mean"] for stage in summary["stages"] if stage["staleness_mean"] is not None]
    found = {f"result/{name}": summary[name] for name in ("test_accuracy", "test_loss", "train_loss")}
    found["run/samples_per_s"] = summary["samples_per_s"]  # the tab sorts by name, and shows the first ones
    found["run/staleness"] = sum(staleness) / len(staleness) if staleness else None
    return {tag: float(value) for tag, value in found.items() if value is not None}


def started(settings: Mapping[str, Setting], *, at_s: float) -> Summary:
    """What TensorBoard is told when a run starts, `at_s` seconds after 1970."""
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=at_s)
    for name, value in settings.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, str):
            info.hparams[name].string_value = value
        else:
            info.hparams[name].number_value = value
    return _of_plugin(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=info))


def ended(ending: Ending, *, at_s: float) -> Summary:
    """What TensorBoard is told when a run is over."""
    info = plugin_data_pb2.SessionEndInfo(status=_STATUS[ending], end_time_secs=at_s)
    return _of_plugin(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=info))


def _of_plugin(tag: str, content: plugin_data_pb2.HParamsPluginData) -> Summary:
    described = metadata.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])


def _rate_of(optimizer: Any) -> float | None:
    keywords = optimizer.keywords if isinstance(optimizer, partial) else {}
    rate = keywords.get("lr", getattr(optimizer, "lr", None))
    return float(rate) if isinstance(rate, int | float) else None


def _name_of(optimizer: Any) -> str:
    made = optimizer.func if isinstance(optimizer, partial) else optimizer
    return str(getattr(made, "__name__", type(made).__name__))


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _listed(values: Any) -> Any:
    """The one value if all are alike, else all of them in words; None for none."""
    values = list(values)
    return values[0] if len(set(map(repr, values))) == 1 else ", ".join(map(str, map(_short, values))) or None


def _short(value: Any) -> Setting:
    """A number as it is, a policy as its name and what is not its default: `Every 5`."""
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    if is_dataclass(value):
        chosen = [(each, getattr(value, each.name)) for each in fields(value)]
        words = [str(own) for each, own in chosen if repr(own) != repr(each.default)]
        text = " ".join([type(value).__name__, *words])
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
