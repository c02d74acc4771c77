"""Which handwritten characters do few-shot experiments learn from?

Omniglot (Lake et al. 2015): 1623 characters of 50 alphabets, each drawn by 20 people. Split by alphabet, so that no
task of one part shares a script with another: the publisher's 20 evaluation alphabets are the test part, and of the 30
background alphabets every sixth in alphabetical order is held out for validation.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from experiments.datafile import DataFile

__all__ = ["SIZE", "VALIDATION", "Omniglot", "omniglot", "read_alphabets", "shrunk"]

SIZE = 28
"""Height and width that the 105 x 105 drawings are averaged down to."""
VALIDATION = (
    "Balinese",
    "Early_Aramaic",
    "Inuktitut_(Canadian_Aboriginal_Syllabics)",
    "Mkhedruli_(Georgian)",
    "Tifinagh",
)
"""Background alphabets held out: 158 characters."""


@dataclass(frozen=True, kw_only=True)
class Omniglot:
    """Drawings in memory, (characters, 20, 1, 28, 28) float32: 0 is paper, 1 is ink."""

    train: Tensor
    """806 characters of 25 alphabets."""
    validation: Tensor
    """158 characters of 5 alphabets."""
    test: Tensor
    """659 characters of 20 alphabets."""


def omniglot() -> Omniglot:
    """The three parts; from the lossless arrays in DNI_DATA only.

    Raises:
        ConfigurationError: a file is not there, or not the right one.
    """
    held_out = torch.tensor([name in VALIDATION for name in read_alphabets(_CHARACTERS.find(), "background")])
    background = shrunk(_drawings(_BACKGROUND.find()))
    return Omniglot(
        train=background[~held_out],
        validation=background[held_out],
        test=shrunk(_drawings(_EVALUATION.find())),
    )


def read_alphabets(path: Path, part: str) -> Sequence[str]:
    """The alphabet of each character of `part` ("background", "evaluation"), in the order of its array."""
    with path.open(newline="") as file:
        rows = [line for line in csv.DictReader(file) if line["set"] == part]
    return [line["alphabet"] for line in sorted(rows, key=lambda line: int(line["row"]))]


def shrunk(white: NDArray[np.bool_]) -> Tensor:
    """(characters, 20, H, W), True where the paper is white, to (characters, 20, 1, 28, 28): the share of ink."""
    # A character at a time: as float32 the drawings of a part are 850 MB.
    parts = [F.adaptive_avg_pool2d(torch.from_numpy(~each).float(), SIZE) for each in white]
    return torch.stack(parts)[:, :, None]


def _drawings(path: Path) -> NDArray[np.bool_]:
    with np.load(path) as stored:
        images: NDArray[np.bool_] = stored["images"]
    return images


_BACKGROUND = DataFile(
    folder="omniglot",
    name="images_background.npz",
    checksum="sha256:8bf84167413cd00beacdce3fe582f780ab538d8dbef043a6d688f2527bbce199",
)
_EVALUATION = DataFile(
    folder="omniglot",
    name="images_evaluation.npz",
    checksum="sha256:0b84c7ffd94c4841c0040e529c86a82eaaccb986d8eadad5673f7991b7475276",
)
_CHARACTERS = DataFile(
    folder="omniglot",
    name="characters.csv",
    checksum="sha256:3925bad494f2bce50fe67873be4e8401a33a12e3c5935a5d4af8c21ef630c312",
)
