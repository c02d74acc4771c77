"""Which configuration does the word on the command line mean?"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.configuration.config import Config
from pipeline.configuration.quickstart import quickstart
from pipeline.errors import ConfigurationError

__all__ = ["BUILT_IN", "find_config", "fingerprint"]

BUILT_IN: dict[str, Callable[[], Config]] = {"quickstart": quickstart}
"""Configurations that come with the package."""


def find_config(reference: str) -> Config:
    """The configuration called `path/to/config.py:function`, or a built-in one.

    The folder we stand in is importable for the file, as it is for `python -m`.

    Raises:
        ConfigurationError: there is no such file or function, or it does not return a `Config`.
    """
    if ":" not in reference:
        if reference not in BUILT_IN:
            raise ConfigurationError(
                f"there is no built-in configuration {reference!r}; there are: {', '.join(sorted(BUILT_IN))}. "
                "A configuration of your own is path/to/config.py:function."
            )
        return BUILT_IN[reference]()
    path, _, name = reference.rpartition(":")
    function = _function(Path(path), name)
    try:
        config = function()
    except ValueError as error:  # a setting out of its range, as a sync probability of 1.5
        raise ConfigurationError(f"{reference}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigurationError(f"{reference} must return a pipeline.Config, it returned {type(config).__name__}.")
    return config


def fingerprint(reference: str) -> str:
    """SHA-256 of the file that holds the configuration."""
    path = Path(reference.rpartition(":")[0]) if ":" in reference else Path(__file__).with_name("quickstart.py")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _function(path: Path, name: str) -> Callable[[], object]:
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path} (looked from {Path.cwd()}).")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == spec.name]
        public = ", ".join(sorted(n for n in names if not n.startswith("_")))
        raise ConfigurationError(f"{path} has no function {name!r}; it has: {public}.")
    return function  # type: ignore[no-any-return]
