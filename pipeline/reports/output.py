"""What is said where a part of the report cannot be written?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigurationError

__all__ = ["write_page", "writing"]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside the block `path` is written.

    Raises:
        ConfigurationError: the disk is full, or does not let us.
    """
    try:
        yield
    except OSError as error:
        what = error.strerror or error
        raise ConfigurationError(
            f"{path} cannot be written: {what}. Make room or allow writing there, or choose another --out."
        ) from error


def write_page(path: Path, page: str) -> None:
    """Write a page whole or not at all: one that is there already stays until the new one is complete."""
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path):
        try:
            temporary.write_text(page, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
