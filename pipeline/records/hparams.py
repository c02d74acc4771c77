"""By which settings and which results are runs compared?

TensorBoard's HParams tab has a row for each run: its settings from the beginning, its results when it is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

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
_LONGEST = 60
"""Characters of a setting."""


def settings_of(prepared: Prepared) -> dict[str, Setting]:
    """What distinguishes a run from others, flat: numbers where there is one, else a few words.

    Settings that have no effect on this run are left out, such as a delay with arrival ready.
    """
    config = prepared.config
    one_per_stage = config.optimizer if isinstance(config.optimizer, tuple) else (config.optimizer,)
    rates = [_rate_of(optimizer) for optimizer in one_per_stage]
    fixed = config.arrival == "fixed"
    found: dict[str, Any] = {
        "source": _listed([type(source).__name__ for source in prepared.sources[:-1]]),
        "sync": config.sync,
        "optimizer": _listed([_name_of(optimizer) for optimizer in one_per_stage]),
        "lr": None if None in rates else _listed(rates),
        "schedule": _listed([type(each).__name__ for each in _tuple(config.schedule)]),
        "stages": prepared.num_stages,
        "delay" if fixed else "max_in_flight": _listed(config.delay if fixed else config.max_in_flight),
        "arrival": config.arrival,
        "executor": config.executor,
        "stash": config.stash,
        "correction": config.correction,
        "cadence": _listed(config.cadence),
        "blocks": len(config.blocks),
        "participation": config.participation,
        "update_probability": _listed(config.update_probability),
        "events": len(config.events),
        "weight_decay": config.weight_decay,
        "clip_norm": config.clip_norm,
        "steps": config.steps,
        "seed": config.seed,
    }
    if prepared.num_stages == 1:
        for name in ("source", "delay", "max_in_flight"):
            found.pop(name, None)
    return {name: _short(value) for name, value in found.items() if value is not None}


def results_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The results of a run by tag, from the content of its summary.json; what has no number is left out."""
    staleness = [stage["staleness_mean"] for stage in summary["stages"] if stage["staleness_mean"] is not None]
    found = {name: summary[name] for name in ("train_loss", "test_loss", "test_accuracy", "samples_per_s", "wall_s")}
    found["staleness"] = sum(staleness) / len(staleness) if staleness else None
    return {f"result/{name}": float(value) for name, value in found.items() if value is not None}


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
    """The one value if all are alike, else all of them."""
    values = list(values)
    return values[0] if len(set(values)) == 1 else ", ".join(map(str, values))


def _short(value: Any) -> Setting:
    if isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
