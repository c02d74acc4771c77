"""How is a file written so that it is there as a whole or not at all, and how is later damage noticed?"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

__all__ = ["FileDigest", "find_damage", "make_folder_durable", "push_folder", "write_file"]


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """What a file held when it was written."""

    num_bytes: int
    sha256: str


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> FileDigest:
    """Write a file under a temporary name, push its content to the disk, and give it its own name last.

    The name itself is on the disk for sure once the folder was pushed, which suffices once for many files.

    Args:
        path: the file; its folder exists.
        write: writes the content, front to back, into what it is given.

    Raises:
        OSError: it could not be written; `filename` is `path`, which is as it was, and the temporary file is gone.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    digest = _Digesting()
    try:
        with temporary.open("wb") as file:
            digest.file = file
            write(cast(BinaryIO, digest))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else digest.error
        if cause is None or cause.errno is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error
    return FileDigest(num_bytes=digest.num_bytes, sha256=digest.sha256.hexdigest())


def make_folder_durable(folder: Path) -> None:
    """Make a folder, with those above it, so that it outlives a crash of the machine."""
    if not folder.is_dir():
        make_folder_durable(folder.parent)
        folder.mkdir(exist_ok=True)
        push_folder(folder.parent)


def push_folder(folder: Path) -> None:
    """Let the names in a folder outlive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def find_damage(path: Path, expected: FileDigest) -> str | None:
    """What is wrong with a file, in words that begin with its name; None: it is as it was written."""
    try:
        num_bytes = path.stat().st_size
        if num_bytes != expected.num_bytes:
            return f"{path.name} has {num_bytes:,} bytes, {expected.num_bytes:,} were written"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({type(error).__name__}: {error})"
    return None if found == expected.sha256 else f"{path.name} was changed (its SHA-256 is another)"


class _Digesting:
    """Passes on what is written, and takes down how much, of what content, and the first failure.

    torch.save hides an OSError behind a RuntimeError of its own.
    """

    def __init__(self) -> None:
        self.file: BinaryIO | None = None
        self.num_bytes = 0
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, content: bytes | memoryview) -> int:
        assert self.file is not None
        try:
            self.file.write(content)
        except OSError as error:
            self.error = self.error or error
            raise
        self.num_bytes += len(content)
        self.sha256.update(content)
        return len(content)

    def flush(self) -> None:
        """What torch.save does at its end; the content is flushed when it is complete."""
