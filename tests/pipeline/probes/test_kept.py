"""Does a probe go on where it was interrupted, and notice when what is there was found in another way?"""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import ConfigurationError
from pipeline.probes.kept import KeptFindings
from pipeline.records.findings import Scalar, read_findings


def _kept(folder: Path, *, again: bool = False, **settings: object) -> KeptFindings:
    return KeptFindings(folder, "curvature", settings={"samples": 10} | settings, again=again)


def _scalar(step: int, value: float = 0.0) -> Scalar:
    return Scalar(tag="curvature/loss", step=step, stage=None, value=value)


def _fill(kept: KeptFindings, step: int) -> None:
    kept.begin(step)
    kept.extend([_scalar(step), _scalar(step, 1.0)])
    kept.finish(step, f"digest {step}")


def test_complete_checkpoints_are_kept_and_an_incomplete_one_is_begun_anew(tmp_path: Path) -> None:
    kept = _kept(tmp_path)
    _fill(kept, 4)
    kept.begin(8)
    kept.extend([_scalar(8)])
    with kept.path.open("a") as file:
        file.write('{"kind": "sca')  # killed while it wrote
    assert len(read_findings(kept.path)) == 3, "what was found stays to be seen"
    kept = _kept(tmp_path)
    assert kept.missing({4: "digest 4", 8: "digest 8"}) == [8]
    _fill(kept, 8)
    assert [finding.step for finding in read_findings(kept.path)] == [4, 4, 8, 8]
    assert _kept(tmp_path).complete == [4, 8]


def test_checkpoint_that_is_another_one_now_is_missing(tmp_path: Path) -> None:
    _fill(_kept(tmp_path), 4)
    assert _kept(tmp_path).missing({4: "another"}) == [4]


def test_other_settings_are_refused_by_name_unless_it_begins_again(tmp_path: Path) -> None:
    _fill(_kept(tmp_path), 4)
    with pytest.raises(ConfigurationError, match=r"samples was 10, now it is 20\. .*--again"):
        _kept(tmp_path, samples=20)
    kept = _kept(tmp_path, samples=20, again=True)
    assert kept.complete == [] and not kept.path.exists()


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    _fill(_kept(tmp_path), 4)
    (tmp_path / "findings" / "curvature.json").write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read: JSONDecodeError"):
        _kept(tmp_path)
