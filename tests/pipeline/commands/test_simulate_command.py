"""Does `dni simulate` say how a run would spend its time, and refuse what cannot be simulated?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.cli import main

SMALL = ("--steps", "24", "--evaluate-every", "0", "--checkpoint-every", "0")


@pytest.fixture
def simulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run the command on the quickstart; the exit code and what it printed, spaces collapsed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*options: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["simulate", "quickstart", *options])
        printed = capfd.readouterr()
        assert isinstance(exit_.value.code, int)
        assert not (tmp_path / "runs").exists(), "nothing is written"
        return exit_.value.code, " ".join(printed.out.split()), printed.err

    return run


def test_configuration_is_timed_without_training(simulate: Any) -> None:
    code, out, err = simulate(*SMALL, "--sync.probability", "0")
    assert (code, err) == (0, "")
    assert "4 stages, 24 steps, in virtual time" in out
    assert "bound 3.6 s each: the slowest stage" in out and "ratio 1.000" in out
    assert "played by the stages themselves, without their mathematics" in out and "loss" not in out


def test_mathematics_trains_too(simulate: Any) -> None:
    code, out, _ = simulate(*SMALL, "--by", "mathematics")
    assert code == 0 and "with their mathematics" in out and "mean of the last microbatches" in out


def test_long_chain_is_computed_by_the_recursion_and_drawn(simulate: Any, tmp_path: Path) -> None:
    code, out, _ = simulate(
        *("--stages", "5000", "--steps", "40", "--method", "decoupled", "--picture", "timeline.png"),
        *("--costs.slow", "4000", "2", "--costs.jitter", "0.1"),
    )
    assert code == 0 and "5,000 stages, 40 steps" in out and "played by the timing recursion" in out
    assert " 4,000 7.2 " in out, "the slowest stage is among the rows"
    assert (tmp_path / "timeline.png").stat().st_size > 10_000


def test_recursion_and_stages_say_the_same(simulate: Any) -> None:
    options = (*SMALL, "--method", "1f1b", "--stages", "6", "--costs.bytes-per-s", "100000")
    _, played, _ = simulate(*options, "--by", "stages")
    _, computed, _ = simulate(*options, "--by", "recursion")
    assert played.split("played by")[0] == computed.split("played by")[0]


def test_methods_are_compared_in_one_table(simulate: Any) -> None:
    code, out, _ = simulate(*SMALL, "--compare", "--stages", "8", "--num-microbatches", "4", "--costs.message-s", "0")
    assert code == 0
    for row in (
        "backprop 24.1 24.1 1.000 12.9% 0 0 1 310 KiB 224 KiB",
        "gpipe 8.275 8.275 1.000",
        "pipedream 3.1 3.1 1.000",
        "decoupled 3.6 3.6 1.000",
    ):
        assert row in out, out


def test_costs_can_be_those_a_run_measured(simulate: Any, tmp_path: Path) -> None:
    stages = [{"operation_s": {"F": 1e-3, "B": 2e-3, "L": 5e-4, "U": 1e-4}}] * 3 + [{"operation_s": {"F": 5e-3}}]
    (tmp_path / "summary.json").write_text(json.dumps({"stages": stages}))
    code, out, _ = simulate(*SMALL, "--sync.probability", "0", "--costs-from", ".", "--costs.message-s", "0")
    assert code == 0 and "bound 0.0071 s each" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stages", "1"), "--stages must be at least 2, got 1"),
        (("--stages", "8", "--by", "mathematics"), "there is no mathematics in it"),
        (("--compare", "--method", "gpipe"), "leave out --picture and --method"),
        (("--picture", "timeline.gif"), "a picture ends in .png, .pdf, .svg"),
        (("--by", "recursion"), "the recursion cannot compute this run: it syncs"),
        (("--costs.forward-s", "1", "2"), "costs.forward_s takes 1 number or 4"),
        (("--stages", "9", "--costs.slow", "9", "2"), "costs.slow names stage 9, but the stages are 0 to 8"),
        (("--costs-from", "nowhere"), "there is no nowhere/summary.json"),
        (("--method", "1f1b", "--num-stages", "99"), "99"),
    ],
)
def test_mistake_in_the_call_is_one_message(options: tuple[str, ...], message: str, simulate: Any) -> None:
    code, out, err = simulate(*options)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err
