"""Where is a data file, and is it the one that was meant?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pooch
from requests import RequestException
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipeline import ConfigurationError

__all__ = ["DataFile"]

_VARIABLE = "DNI_DATA"


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One published file of a data set."""

    folder: str
    """Sub-folder of the data folder, such as "mnist"."""
    name: str
    """Name of the file, the publisher's own."""
    checksum: str
    """What its content must hash to, as "sha256:440f..."."""
    url: str = ""
    """Where it is downloaded from; empty: nowhere, it has to be there."""

    @property
    def local(self) -> Path | None:
        """Its path in the folder that the environment variable DNI_DATA names; None if it is not there."""
        path = Path(os.environ.get(_VARIABLE, ""), self.folder, self.name)
        return path if os.environ.get(_VARIABLE) and path.exists() else None

    def find(self) -> Path:
        """The file's path: found in DNI_DATA, or downloaded once into the user's cache.

        Raises:
            ConfigurationError: there is no such file to be had, or its checksum is not the expected one.
        """
        path = self.local
        if path is None:
            return self._download()
        self._check(path)
        return path

    def _check(self, path: Path) -> None:
        algorithm = self.checksum.partition(":")[0]
        found = f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"
        if found != self.checksum:
            raise ConfigurationError(
                f"{path} must have the checksum {self.checksum}, found {found}: it is damaged or another file. "
                f"Delete it, or unset {_VARIABLE}, and {self.name} is downloaded again."
            )

    def _download(self) -> Path:
        cache = Path(pooch.os_cache("decoupled-stages"), self.folder)
        wanted = f"{self.folder}/{self.name}"
        if not self.url:
            raise ConfigurationError(
                f"{wanted} is not downloadable and was not found under {_VARIABLE} "
                f"({os.environ.get(_VARIABLE) or 'not set'}). Set {_VARIABLE} to the folder that holds {wanted}."
            )
        try:
            found = pooch.retrieve(
                self.url,
                self.checksum,
                fname=self.name,
                path=cache,
                downloader=pooch.HTTPDownloader(progressbar=_Bar(wanted)),
            )
        except RequestException as error:
            raise ConfigurationError(
                f"{wanted} could not be downloaded from {self.url}: {error}. "
                f"Put it at {cache / self.name}, or set {_VARIABLE} to a folder that holds {wanted}."
            ) from error
        except ValueError as error:  # pooch's word for a wrong checksum; it keeps no such file
            raise ConfigurationError(
                f"{cache / self.name} must have the checksum {self.checksum}; {self.url} gave something else: "
                f"{error} Put the right file there by hand."
            ) from error
        return Path(found)


class _Bar:
    """A download's progress bar, in the form that pooch asks for."""

    def __init__(self, description: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self._progress = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn())
        self._task = self._progress.add_task(description, total=None)
        self.total = 0

    def update(self, num_bytes: int) -> None:
        """So many further bytes have arrived."""
        self._progress.start()
        self._progress.update(self._task, total=self.total, advance=num_bytes)

    def reset(self) -> None:
        """Begin again from nothing."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Nothing more will arrive."""
        self._progress.update(self._task, total=self.total, completed=self.total)
        self._progress.stop()
