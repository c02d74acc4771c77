"""Does `dni probe` measure what it is asked to, go on, end in one message, and leave the run alone?"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.commands.cli import main
from pipeline.probes import work
from pipeline.records.findings import read_findings
from pipeline.records.manifest import checkpoint_folder
from tests.pipeline.probed import run_folder

Dni = Callable[..., tuple[int, str, str]]
QUICK = ("--top", "2", "--draws", "2", "--points", "3", "--no-tensorboard")


@pytest.fixture
def dni(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Dni:
    for name in ("RANK", "WORLD_SIZE", "DNI_RUN_FOLDER"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([*map(str, words)])
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


def _copied(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(run_folder(name), folder / name))


def _digests(folder: Path) -> dict[str, str]:
    """Of every file that is the run's own."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(folder).parts[0] not in ("findings", "tensorboard")
    }


def _steps(folder: Path, name: str) -> set[int]:
    return {finding.step for finding in read_findings(folder / "findings" / f"{name}.jsonl")}


@pytest.mark.parametrize(("name", "at"), [("pruned", ("4", "8")), ("one_stage", ("8",)), ("normalised", ("12",))])
def test_all_is_measured_and_the_run_is_as_before(name: str, at: tuple[str, ...], dni: Dni, tmp_path: Path) -> None:
    folder = _copied(name, tmp_path)
    before = _digests(folder)
    code, out, err = dni("probe", folder, "--at", *at, *QUICK)
    assert (code, err) == (0, "")
    assert _digests(folder) == before and len(before) > 10
    for what in ("curvature", "representations", "hessian", "landscape"):
        assert _steps(folder, what) == {*map(int, at)}
        assert f"{what}.jsonl: step {', '.join(at)}" in out
    assert ("the loss has kinks (ReLU)" in out) == (name == "normalised")
    overviews = {path.name for path in (folder / "findings").glob("*-over-time.jsonl")}
    both = {"curvature-over-time.jsonl", "representations-over-time.jsonl"}
    assert overviews == (both if len(at) > 1 else set())


def test_runs_are_compared_with_the_first_one(dni: Dni, tmp_path: Path) -> None:
    reference, folder = _copied("backprop", tmp_path), _copied("base", tmp_path)
    what = ("--what", "representations", "hessian", "--at", "last", "--layers", "2")
    assert dni("probe", reference, folder, *what, *QUICK)[0] == 0
    for name in ("representations-beside-backprop", "hessian-beside-backprop"):
        assert _steps(folder, name) == {12}
    assert not list((reference / "findings").glob("*-beside-*"))


def test_runs_of_other_shapes_are_refused_before_anything_is_measured(dni: Dni, tmp_path: Path) -> None:
    reference, folder = _copied("wider", tmp_path), _copied("base", tmp_path)
    code, _, err = dni("probe", reference, folder, "--what", "hessian", *QUICK)
    assert code == 2 and "only between layers of the same names and shapes, but 0 has" in err
    assert not (reference / "findings").exists()
    assert dni("probe", reference, folder, "--what", "representations", "--at", "last", "--no-tensorboard")[0] == 0


def test_interrupted_probe_says_what_is_kept_and_goes_on_with_the_rest(
    dni: Dni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copied("base", tmp_path)
    probe, seen = work._PROBES["curvature"], []

    def interrupted(network, *others):  # type: ignore[no-untyped-def]
        seen.append(network.step)
        for count, finding in enumerate(probe(network, *others)):
            if network.step == 8 and count == 5 and seen.count(8) == 1:
                raise KeyboardInterrupt
            yield finding

    monkeypatch.setattr(work, "_PROBES", {**work._PROBES, "curvature": interrupted})
    code, out, _ = dni("probe", folder, "--what", "curvature", "--no-tensorboard")
    assert code == 1 and "curvature.jsonl: step 4\n" in out and "the same command goes on" in out
    assert _steps(folder, "curvature") == {4, 8}, "what was found of step 8 stays"
    assert dni("probe", folder, "--what", "curvature", "--no-tensorboard")[0] == 0
    assert seen == [4, 8, 8, 12], "step 4 was complete"
    whole = read_findings(folder / "findings" / "curvature.jsonl")
    assert dni("probe", folder, "--what", "curvature", "--again", "--no-tensorboard")[0] == 0
    assert seen[4:] == [4, 8, 12] and read_findings(folder / "findings" / "curvature.jsonl") == whole


def test_checkpoint_that_vanishes_while_the_run_trains_is_left_out(
    dni: Dni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _copied("base", tmp_path)
    probe = work._PROBES["curvature"]

    def removing(network, *others):  # type: ignore[no-untyped-def]
        shutil.rmtree(checkpoint_folder(folder / "checkpoints", 8), ignore_errors=True)
        yield from probe(network, *others)

    monkeypatch.setattr(work, "_PROBES", {**work._PROBES, "curvature": removing})
    code, out, err = dni("probe", folder, "--what", "curvature", "--no-tensorboard")
    assert code == 0 and "curvature.jsonl: step 4, 12" in out
    assert "note: the run has removed the checkpoint of step 8 meanwhile: it is left out." in err


def test_run_that_is_not_finished_is_probed_at_what_it_has(dni: Dni, tmp_path: Path) -> None:
    folder = _copied("base", tmp_path)
    (checkpoint_folder(folder / "checkpoints", 12) / "manifest.json").unlink()
    assert dni("probe", folder, "--what", "curvature", "--at", "last")[0] == 0
    assert _steps(folder, "curvature") == {8}
    events = EventAccumulator(
        str(folder / "tensorboard" / "findings" / "network"), size_guidance={"images": 0}
    ).Reload()
    assert [event.step for event in events.Scalars("curvature/coupling_between_stages")] == [8]
    assert [event.step for event in events.Images("curvature/interaction_by_stage")] == [8]


def test_mistakes_end_in_one_message_and_exit_code_2(dni: Dni, tmp_path: Path) -> None:
    folder = _copied("base", tmp_path)
    pairs = Path(shutil.copytree(folder, tmp_path / "pairs"))
    record = json.loads((pairs / "config.json").read_text())
    record["config"] = record["config"].replace(":base", ":of_pairs")
    (pairs / "config.json").write_text(json.dumps(record))
    for words, message in (
        ((), "say which runs to probe"),
        ((tmp_path / "none",), "is not a run's folder"),
        ((folder, folder), "each run must be named once"),
        ((folder, "--at", "5"), "--at takes all, last, or steps of checkpoints, got 5"),
        ((folder, "--samples", "1000"), "the test data hold 48"),
        ((folder, "--samples", "2"), "samples must be at least 4"),
        ((folder, "--what", "hessian", "--layers", "9"), "there is no layer '9'"),
        ((pairs, "--what", "curvature", "--no-tensorboard"), "the loss must be a sum or a mean over the samples"),
    ):
        code, _, err = dni("probe", *words)
        assert code == 2 and message in " ".join(err.split()), (words, err)
        assert err.count("dni:") == 1 and "Traceback" not in err


def test_help_shows_examples(dni: Dni) -> None:
    code, out, _ = dni("probe", "--help")
    assert code == 0 and "dni probe runs/backprop runs/synthetic --what representations" in " ".join(out.split())
