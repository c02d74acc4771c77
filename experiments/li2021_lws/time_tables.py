"""How much faster are back-propagation, whole steps and stages, beside what they should be?

The tables of times.jsonl and stages.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, TypeAlias

from experiments.li2021_lws.config import EVERYTHING, Rule
from experiments.li2021_lws.cost_model import backward_speed_up, step_speed_up
from experiments.li2021_lws.speed import BY_HAND, NETS, RULES
from experiments.li2021_lws.stages import CASES, Case

__all__ = ["SpeedUp", "speed_ups", "time_parts"]

Lines: TypeAlias = Sequence[Mapping[str, Any]]


class SpeedUp:
    """How much faster a rule is than full SGD, as measured and as the cost model has it.

    Args:
        line: of the rule.
        full: of full SGD.
        top: of the rule's top alone; None: it was not timed, and the model says nothing of the backward.
    """

    def __init__(self, line: Mapping[str, Any], full: Mapping[str, Any], top: Mapping[str, Any] | None) -> None:
        self.backward: float = full["backward_ms"] / line["backward_ms"]
        self.step: float = full["step_ms"] / line["step_ms"]
        ratio = None if top is None else top["backward_ms"] / full["backward_ms"]
        self.model = None if ratio is None else backward_speed_up(line["probability"], ratio)
        self.step_model = step_speed_up(full["backward_ms"] / full["step_ms"], self.backward)

    @property
    def off(self) -> float | None:
        """By how much the backward's is more than the model's, in percent."""
        return None if self.model is None else 100 * (self.backward / self.model - 1)

    @property
    def step_off(self) -> float:
        """The same of the whole step."""
        return 100 * (self.step / self.step_model - 1)


def time_parts(times: Lines, stages: Lines) -> dict[str, str]:
    """The generated parts of the README that the two files give, by the names of their markers."""
    parts = {f"time {net}": "\n".join(_times(net, times)) for net in NETS}
    return parts | {
        "virtual stages": "\n".join(_stages("virtual", stages)),
        "ranks": "\n".join(_stages("ranks", stages)),
    }


def speed_ups(net: str, times: Lines, *, how: str = "ours") -> dict[Rule, SpeedUp]:
    """Of the rules that let the top or all learn, by the newest run of `speed.py`."""
    own = _newest(net, how, times)
    if EVERYTHING not in own:
        return {}
    return {
        rule: SpeedUp(line, own[EVERYTHING], own.get(Rule(rule.learns, 0.0)))
        for rule, line in own.items()
        if 0 < rule.probability < 1
    }


def _times(net: str, times: Lines) -> Iterator[str]:
    yield (
        "| | forward, ms | backward | update | whole step | back-propagation faster | the model | off by | "
        "step faster | the model | off by |"
    )
    yield "|---|" + "---:|" * 10
    for how, rules in (("ours", RULES), ("by hand", BY_HAND)):
        own, faster = _newest(net, how, times), speed_ups(net, times, how=how)
        for rule in rules:
            title = rule.title if how == "ours" else f"*{rule.title}, by hand*"
            if rule not in own:
                yield f"| {title} | not run |" + " |" * 9
                continue
            names = ("forward_ms", "backward_ms", "update_ms", "step_ms")
            cells = [f"{own[rule][name]:.2f}" for name in names]
            yield f"| {title} | {' | '.join(cells)} | {' | '.join(_faster_cells(own, rule, faster))} |"


def _faster_cells(own: Mapping[Rule, Mapping[str, Any]], rule: Rule, faster: Mapping[Rule, SpeedUp]) -> list[str]:
    if rule in faster:
        found = faster[rule]
        model = ["", ""] if found.model is None else [f"{found.model:.2f}", f"{found.off:+.1f} %"]
        return [
            f"{found.backward:.2f}",
            *model,
            f"{found.step:.2f}",
            f"{found.step_model:.2f}",
            f"{found.step_off:+.1f} %",
        ]
    if rule == EVERYTHING or EVERYTHING not in own:
        return ["1", "", "", "1", "", ""]
    found = SpeedUp(own[rule], own[EVERYTHING], None)
    return [f"{found.backward:.2f}", "", "", f"{found.step:.2f}", f"{found.step_model:.2f}", f"{found.step_off:+.1f} %"]


def _newest(net: str, how: str, times: Lines) -> dict[Rule, Mapping[str, Any]]:
    """Of the newest run, by rule."""
    own = [line for line in times if (line["net"], line["how"]) == (net, how)]
    newest = [line for line in own if line["run"] == own[-1]["run"]]
    return {Rule(*(line[name] for name in Rule._fields)): line for line in newest}


def _stages(how: str, stages: Lines) -> Iterator[str]:
    """Medians over the rounds of the newest run."""
    own = [line for line in stages if line["how"] == how]
    own = [line for line in own if line["run"] == own[-1]["run"]]
    unit = "virtual seconds" if how == "virtual" else "ms"
    yield f"| | {unit} a microbatch | faster | waiting, stages 0 to 3 | KiB up | KiB down | of full SGD's |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    full = _lines_of(CASES[0], own)
    for case in CASES:
        lines = _lines_of(case, own)
        cells = _stage_cells(lines, full) if lines else ["not run", *[""] * 5]
        yield f"| {case.title} | {' | '.join(cells)} |"


def _lines_of(case: Case, lines: Lines) -> Lines:
    return [line for line in lines if (line["top"], line["probability"]) == case]


def _stage_cells(lines: Lines, full: Lines) -> list[str]:
    period_s, full_s = (median(line["period_s"] for line in each) for each in (lines, full))
    shown = f"{period_s:.2f}" if lines[0]["how"] == "virtual" else f"{1e3 * period_s:.1f}"
    waiting = [median(shares) for shares in zip(*(line["waiting"] for line in lines), strict=True)]
    up, down, full_down = (
        [median(counts) / 1024 for counts in zip(*(line[name] for line in each), strict=True)]
        for each, name in ((lines, "up_bytes"), (lines, "down_bytes"), (full, "down_bytes"))
    )
    return [
        shown,
        f"{full_s / period_s:.2f}",
        ", ".join(f"{100 * share:.0f} %" for share in waiting),
        ", ".join(f"{count:.0f}" for count in up),
        ", ".join(f"{count:.1f}" for count in down),
        ", ".join(f"{100 * count / whole:.0f} %" for count, whole in zip(down, full_down, strict=True)),
    ]
