"""Do errors say where and why, and whose mistake it was?"""

from __future__ import annotations

import json

import pytest

from pipeline.errors import (
    CheckpointError,
    ConfigurationError,
    FailureRecord,
    NotFinite,
    PartitionError,
    PipelineError,
    RemoteFailure,
    RunError,
    StageFailure,
)


@pytest.mark.parametrize(
    ("error", "parent"),
    [
        (ConfigurationError, PipelineError),
        (PartitionError, ConfigurationError),
        (CheckpointError, ConfigurationError),
        (RunError, PipelineError),
        (StageFailure, RunError),
        (NotFinite, RunError),
        (RemoteFailure, RunError),
    ],
)
def test_mistakes_and_failures_are_told_apart(error: type[Exception], parent: type[Exception]) -> None:
    assert issubclass(error, parent)
    assert not (issubclass(error, ConfigurationError) and issubclass(error, RunError))


def _failure() -> StageFailure:
    try:
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError as cause:
            raise StageFailure(stage=2, step=7, phase="forward", cause=cause) from cause
    except StageFailure as failure:
        return failure


def test_failure_of_a_stage_is_recorded_with_stage_step_phase_and_the_causes_traceback() -> None:
    record = FailureRecord.of(_failure(), rank=3)
    assert (record.rank, record.stage, record.step, record.phase) == (3, 2, 7, "forward")
    assert record.message == "stage 2 failed at step 7 in forward: ZeroDivisionError: by zero"
    assert 'raise ZeroDivisionError("by zero")' in record.traceback and "StageFailure" in record.traceback


def test_other_error_is_recorded_with_its_type() -> None:
    record = FailureRecord.of(KeyError("x"), rank=0)
    assert (record.message, record.stage, record.step, record.phase) == ("KeyError: 'x'", None, None, None)


def test_record_survives_as_json() -> None:
    record = FailureRecord.of(_failure(), rank=3)
    assert FailureRecord(**json.loads(record.to_json())) == record
    assert str(RemoteFailure(record)) == f"rank 3: {record.message}"
