"""Is a run's first failure kept whole, whatever fails after it, and is a finished run written down?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from pipeline import Config, Data, KeyedBatches, StageFailure, prepare, run_simulated
from pipeline.clock import WallClock
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import build_stage, make_feed
from pipeline.errors import SaveFailure
from pipeline.executors.executor import concluded, recording
from pipeline.executors.session import Session
from tests.pipeline.chain import WIDTH, features, labels


def _prepared() -> Prepared:
    x, target = features(0, num_samples=8), labels(0, num_samples=8)
    return prepare(
        Config(
            model=lambda: [nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)],
            data=lambda: Data(train=KeyedBatches(x, target, batch_size=4)),
            loss=nn.CrossEntropyLoss(),
            steps=3,
        )
    )


def _session(prepared: Prepared, folder: Path | None) -> Session:
    stages = [build_stage(prepared, index, clock=WallClock()) for index in range(2)]
    return Session(prepared, stages, folder=folder, resume=False)


def _fail() -> None:
    raise StageFailure(stage=1, step=4, phase="forward", cause=ArithmeticError("first"))


def _fill_the_disk(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files can be closed, but not written to before."""
    close = session.close

    def closed() -> None:
        close()
        raise SaveFailure(stage=0, step=3, folder=Path("run"), cause=OSError(28, "No space left on device"))

    monkeypatch.setattr(session, "close", closed)


def test_failure_is_written_down_and_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match="first"), recording(_session(_prepared(), tmp_path), tmp_path):
        _fail()
    record = json.loads((tmp_path / "error.json").read_text())
    assert (record["rank"], record["stage"], record["step"], record["phase"]) == (0, 1, 4, "forward")


def test_what_fails_after_the_first_failure_is_a_note_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = _session(_prepared(), tmp_path)
    _fill_the_disk(session, monkeypatch)
    with pytest.raises(StageFailure, match="first") as caught, recording(session, tmp_path):
        _fail()
    (note,) = caught.value.__notes__
    assert note.startswith("Then also: SaveFailure: stage 0 could not be saved at step 3")
    assert note in json.loads((tmp_path / "error.json").read_text())["traceback"]


def test_interruption_is_no_failure(tmp_path: Path) -> None:
    session = _session(_prepared(), tmp_path)
    with pytest.raises(KeyboardInterrupt), recording(session, tmp_path):
        raise KeyboardInterrupt
    assert not (tmp_path / "error.json").exists()


def test_files_that_cannot_be_closed_are_a_failure_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session(_prepared(), tmp_path)
    _fill_the_disk(session, monkeypatch)
    with pytest.raises(SaveFailure), recording(session, tmp_path):
        pass
    assert json.loads((tmp_path / "error.json").read_text())["stage"] == 0


def test_run_that_is_over_has_its_summary_in_the_folder_and_its_weights_in_the_result(tmp_path: Path) -> None:
    prepared = _prepared()
    session = _session(prepared, tmp_path)
    feed = make_feed(prepared)
    with recording(session, tmp_path):
        pass
    result = concluded(prepared, session, feed, folder=tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == result.summary
    assert result.folder == tmp_path and result.summary["status"] == "interrupted", "no step was fed"
    assert set(result.export()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert run_simulated(_prepared()).folder is None
