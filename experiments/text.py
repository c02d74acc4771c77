"""Which texts do experiments learn from, character by character or word by word?

Characters are read as UTF-8 bytes: every character can be said, and a text's bits divided by its characters are bits
per character. Words are what the publisher's spaces part, and one more for the end of each line. Files are looked for
in the folder that the environment variable DNI_DATA names (tiny-shakespeare/, wikitext-2/).
"""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.datafile import DataFile

__all__ = ["Text", "Words", "shakespeare", "wikitext2", "wikitext2_words"]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text as numbers, one for each byte: its place among the bytes that occur."""

    train: Tensor
    """uint8, (number of bytes,)."""
    valid: Tensor
    test: Tensor
    num_symbols: int
    """How many different bytes there are."""
    valid_bytes_per_character: float
    """Bits per byte times this are bits per character."""
    test_bytes_per_character: float


@dataclass(frozen=True, kw_only=True)
class Words:
    """A text as numbers, one for each word: its place in the order of how often words occur in training."""

    train: Tensor
    """int64, (number of words,)."""
    valid: Tensor
    test: Tensor
    num_types: int
    """How many different words there are."""


def shakespeare() -> Text:
    """1 115 394 characters of Shakespeare's plays; the last tenth is for validation and test, half each.

    Raises:
        ConfigurationError: the file is not there, or not the right one.
    """
    content = _read(_SHAKESPEARE)
    first, second = round(0.9 * len(content)), round(0.95 * len(content))
    return _text(content[:first], content[first:second], content[second:])


def wikitext2() -> Text:
    """10 797 148, 1 121 681 and 1 256 449 bytes of Wikipedia, as the publisher's word-level files have them.

    Raises:
        ConfigurationError: a file is not there, or not the right one.
    """
    return _text(*(_read(file) for file in _WIKITEXT2))


def wikitext2_words() -> Words:
    """2 088 628, 217 646 and 245 569 words of Wikipedia, of 33 278 types, the end of a line being one.

    Raises:
        ConfigurationError: a file is not there, or not the right one.
    """
    train, valid, test = (_words(_read(file)) for file in _WIKITEXT2)
    order = {word: place for place, (word, _) in enumerate(Counter(train).most_common())}
    train_x, valid_x, test_x = (torch.tensor([order[word] for word in part]) for part in (train, valid, test))
    return Words(train=train_x, valid=valid_x, test=test_x, num_types=len(order))


_SHAKESPEARE = DataFile(
    folder="tiny-shakespeare",
    name="input.txt.gz",
    checksum="sha256:13125fe8f49092165d7d489e3944db52d1ba546e64a60080cc9523bcd0c5e46a",
)
_WIKITEXT2 = tuple(
    DataFile(folder="wikitext-2", name=f"wiki.{part}.tokens.gz", checksum=f"sha256:{checksum}")
    for part, checksum in (
        ("train", "fc9790d81cb8f08d3cfc5765fc8e67dcf8fe00845c1365914b81da130bbd79ce"),
        ("valid", "3cdd8cb5bb349a05840c7c3bef9578d90d64df77e27e0c25c033ba9342757ee3"),
        ("test", "688887879b4b526692cb2e423a516dcc5f6584a01fd3f33a8e164fbed2de8090"),
    )
)


def _read(file: DataFile) -> bytes:
    return gzip.decompress(file.find().read_bytes())


def _words(content: bytes) -> list[str]:
    lines = content.decode("utf-8").removesuffix("\n").split("\n")
    return [word for line in lines for word in (*line.split(), "<eos>")]


def _text(train: bytes, valid: bytes, test: bytes) -> Text:
    symbols = sorted(set(train) | set(valid) | set(test))
    table = bytes(symbols.index(byte) if byte in symbols else 0 for byte in range(256))
    train_x, valid_x, test_x = (
        torch.frombuffer(bytearray(part.translate(table)), dtype=torch.uint8) for part in (train, valid, test)
    )
    return Text(
        train=train_x,
        valid=valid_x,
        test=test_x,
        num_symbols=len(symbols),
        valid_bytes_per_character=_bytes_per_character(valid),
        test_bytes_per_character=_bytes_per_character(test),
    )


def _bytes_per_character(content: bytes) -> float:
    # A split in the middle of a character is forgiven: it is one of a million.
    return len(content) / len(content.decode("utf-8", errors="replace"))
