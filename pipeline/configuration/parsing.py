"""What does a command line say of a configuration, and what does a run's folder remember of the one it had?"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tyro

from pipeline.configuration.config import Config
from pipeline.configuration.loading import BUILT_IN, find_config, fingerprint
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.written import written
from pipeline.errors import ConfigurationError
from pipeline.records.folder import RunRecord, read_record

__all__ = ["parse_config", "record_of", "recorded_config", "split_config"]


def split_config(command: str, words: list[str]) -> tuple[str, list[str]]:
    if not words or words[0].startswith("-"):
        raise ConfigurationError(
            f"say what to {command}: dni {command} CONFIG, with path/to/config.py:function or one of "
            f"{', '.join(sorted(BUILT_IN))}."
        )
    return words[0], words[1:]


def parse_config(reference: str, options: list[str], *, command: str) -> Config:
    default = find_config(reference)
    description = f"For example: dni {command} {reference} --steps 300 --seed 1"
    quiet = int(os.environ.get("RANK", "0")) != 0
    return tyro.cli(
        Annotated[Config, tyro.conf.arg(name="")],
        default=default,
        args=options,
        prog=f"dni {command} {reference}",
        description=description,
        console_outputs=not quiet,
    )


def recorded_config(run: Path) -> tuple[RunRecord, Config]:
    record = read_record(run)
    config = parse_config(record.config, record.options, command="train")
    if record.at is not None:  # cut as it was: a cut by measured time may come out differently today
        config = replace(config, at=tuple(record.at), num_stages=len(record.at) + 1)
    return record, config


def record_of(reference: str, options: list[str], prepared: Prepared) -> RunRecord:
    config, starts = prepared.config, prepared.outline.starts
    return RunRecord(
        config=reference,
        options=options,
        sha256=fingerprint(reference),
        num_threads=config.num_threads,
        at=None if starts is None else list(starts),
        settings={name: written(value) for name, value in vars(config).items() if name not in ("model", "data")},
    )
