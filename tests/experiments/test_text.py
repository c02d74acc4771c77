"""Are texts read as the bytes they are?"""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import text
from pipeline import ConfigurationError

needs_data = pytest.mark.skipif(not os.environ.get("DNI_DATA"), reason="DNI_DATA names no folder with real data")


def test_symbols_are_places_among_the_bytes_that_occur_and_bytes_per_character_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"train": "abab", "valid": "bé", "test": "€a"}
    files = []
    for file, content in zip(text._WIKITEXT2, parts.values(), strict=True):
        packed = gzip.compress(content.encode())
        (tmp_path / "wikitext-2").mkdir(exist_ok=True)
        (tmp_path / "wikitext-2" / file.name).write_bytes(packed)
        files.append(replace(file, checksum=f"sha256:{hashlib.sha256(packed).hexdigest()}"))
    monkeypatch.setenv("DNI_DATA", str(tmp_path))
    monkeypatch.setattr(text, "_WIKITEXT2", tuple(files))
    found = text.wikitext2()
    assert found.num_symbols == len(set("".join(parts.values()).encode())) == 7
    assert found.train.tolist() == [0, 1, 0, 1] and found.train.dtype == torch.uint8
    assert found.valid_bytes_per_character == 1.5 and found.test_bytes_per_character == 2.0


def test_a_text_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNI_DATA", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"tiny-shakespeare/input\.txt\.gz is not downloadable"):
        text.shakespeare()


@needs_data
def test_the_real_texts_have_their_published_sizes() -> None:
    plays, articles = text.shakespeare(), text.wikitext2()
    assert len(plays.train) + len(plays.valid) + len(plays.test) == 1_115_394 and plays.num_symbols == 65
    assert [len(part) for part in (articles.train, articles.valid, articles.test)] == [10797148, 1121681, 1256449]
    assert plays.test_bytes_per_character == 1.0 and 1.0 < articles.test_bytes_per_character < 1.02
