"""Is a file there as a whole or not at all, whatever happens while it is written, and is later damage found?"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.records.durable import find_damage, make_folder_durable, write_file
from pipeline.records.manifest import Manifest, write_manifest


def test_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    state = {"weight": torch.randn(300, 7), "step": 3}
    digest = write_file(path, lambda file: torch.save(state, file))
    content = path.read_bytes()
    assert digest.num_bytes == len(content) and digest.sha256 == hashlib.sha256(content).hexdigest()
    assert find_damage(path, digest) is None
    assert torch.equal(torch.load(path, weights_only=True)["weight"], state["weight"])


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    digest = write_file(path, lambda file: torch.save({"weight": torch.ones(3)}, file))
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert find_damage(path, digest) == "a.pt was changed (its SHA-256 is another)"


def test_wrong_length_missing_and_unreadable_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    digest = write_file(path, lambda file: file.write(b"x" * 2000))
    path.write_bytes(b"x" * 1999)
    assert find_damage(path, digest) == "a has 1,999 bytes, 2,000 were written"
    path.unlink()
    assert find_damage(path, digest) == "a is missing"
    (tmp_path / "b").write_bytes(b"")
    assert "c cannot be read (NotADirectoryError" in str(find_damage(tmp_path / "b" / "c", digest))


def _noting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is pushed to the disk, and what gets its name, from now on and in this order."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        sync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        done.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    return done


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _noting(monkeypatch)
    write_file(tmp_path / "a", lambda file: file.write(b"x"))
    assert done == ["content", "a"]


def test_folder_is_in_its_parent_for_good_before_anything_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = _noting(monkeypatch)
    make_folder_durable(tmp_path / "b" / "c")
    make_folder_durable(tmp_path / "b" / "c")
    assert done == ["folder", "folder"] and (tmp_path / "b" / "c").is_dir()


def test_checkpoint_is_on_the_disk_for_good_once_its_manifest_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder_durable(tmp_path / "step-000000003")
    done = _noting(monkeypatch)
    write_manifest(tmp_path, Manifest(step=3, num_stages=0, exact=True, finished=False, files={}))
    assert done == ["content", "manifest.json", "folder"]


def _raise(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize(("failure", "expected"), [(_raise, OSError), (_interrupt, KeyboardInterrupt)])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    failure: Callable[..., None],
    expected: type[BaseException],
) -> None:
    path = tmp_path / "a"
    write_file(path, lambda file: file.write(b"old"))
    monkeypatch.setattr(os, name, failure)
    with pytest.raises(expected) as caught:
        write_file(path, lambda file: file.write(b"new"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"] and path.read_bytes() == b"old"
    if expected is OSError:
        assert caught.value.filename == str(path), "the message names the file that was to be, not a temporary one"


def test_disk_that_is_full_is_said_by_name_also_where_torch_hides_it(tmp_path: Path) -> None:
    """torch.save turns the OSError of its file into a RuntimeError about a position."""
    path = tmp_path / "a.pt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        write_file(path, lambda file: torch.save({"weight": torch.ones(10)}, file))
        with pytest.raises(OSError, match="File too large") as caught:
            write_file(path, lambda file: torch.save({"weight": torch.ones(100_000)}, file))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    assert len(torch.load(path, weights_only=True)["weight"]) == 10


def test_mistake_in_what_is_to_be_written_is_raised_as_it_is(tmp_path: Path) -> None:
    def fail(file: object) -> None:
        raise ValueError("no content")

    with pytest.raises(ValueError, match="no content"):
        write_file(tmp_path / "a", fail)
    assert list(tmp_path.iterdir()) == []
