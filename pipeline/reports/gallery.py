"""Where does a picture go once it is drawn?"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.reports.output import writing
from pipeline.reports.page import Html, picture
from pipeline.reports.style import inline_png, inline_svg, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Gallery"]


class Gallery:
    """Puts pictures into the page, and beside it as files.

    Args:
        folder: for the PNGs.
        on_picture: told how many there are after each.
    """

    def __init__(self, folder: Path, *, on_picture: Callable[[int], object]) -> None:
        self.written: list[Path] = []
        self._folder = folder
        self._on_picture = on_picture

    def hang(self, figure: Figure, *words: object, caption: str = "", has_map: bool = False) -> Html:
        """Write a picture to a file and return it for the page.

        Args:
            figure: the picture.
            words: what it shows; its file's name is made of them.
            caption: below it.
            has_map: it is mostly a map of colours, so as SVG it would be large.
        """
        alt = " ".join(map(str, words))
        stem = re.sub(r"[^a-z0-9]+", "-", alt.lower()).strip("-")[:80]
        path = self._folder / f"{stem}.png"
        number = 1
        while path in self.written:
            number += 1
            path = self._folder / f"{stem}-{number}.png"
        with writing(path):
            write_png(figure, path)
        self.written.append(path)
        image = inline_png(figure, alt=alt) if has_map else inline_svg(figure, alt=alt)
        self._on_picture(len(self.written))
        return picture(image, caption=caption)
