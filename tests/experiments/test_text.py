"""Are texts read as the bytes they are?"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import text
from pipeline import ConfigurationError

needs_data = pytest.mark.skipif(not os.environ.get("DNI_DATA"), reason="DNI_DATA names no folder with real data")


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Put texts of one's own in the place of WikiText-2."""

    def put(*parts: str) -> None:
        files = []
        (tmp_path / "wikitext-2").mkdir()
        for file, content in zip(text._WIKITEXT2, parts, strict=True):
            packed = gzip.compress(content.encode())
            (tmp_path / "wikitext-2" / file.name).write_bytes(packed)
            files.append(replace(file, checksum=f"sha256:{hashlib.sha256(packed).hexdigest()}"))
        monkeypatch.setenv("DNI_DATA", str(tmp_path))
        monkeypatch.setattr(text, "_WIKITEXT2", tuple(files))

    return put


def test_symbols_are_places_among_the_bytes_that_occur_and_bytes_per_character_are_counted(
    put: Callable[[str, str, str], None],
) -> None:
    put("abab", "bé", "€a")
    found = text.wikitext2()
    assert found.num_symbols == len(set("ababbé€a".encode())) == 7
    assert found.train.tolist() == [0, 1, 0, 1] and found.train.dtype == torch.uint8
    assert found.valid_bytes_per_character == 1.5 and found.test_bytes_per_character == 2.0


def test_words_are_numbered_by_how_often_they_occur_and_a_line_ends_with_one(
    put: Callable[[str, str, str], None],
) -> None:
    put("a b b b\n \n <unk> b a\u2028a\n", "b\n", "a <unk>")
    found = text.wikitext2_words()
    b, a, eos, unk = range(4)
    assert found.train.tolist() == [a, b, b, b, eos, eos, unk, b, a, a, eos] and found.num_types == 4
    assert (found.valid.tolist(), found.test.tolist()) == ([b, eos], [a, unk, eos])


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
    words = text.wikitext2_words()
    assert [len(part) for part in (words.train, words.valid, words.test)] == [2088628, 217646, 245569]
    assert words.num_types == 33278 and words.train.bincount().diff().max() == 0  # in falling order
