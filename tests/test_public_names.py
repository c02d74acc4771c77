"""Are the public names of each package written down, and there?"""

from __future__ import annotations

import importlib
import pkgutil
import types
from pathlib import Path

import pytest

import dni
import pipeline

PACKAGES = {"dni": dni, "pipeline": pipeline}
MODULES = [
    module.name
    for name, package in PACKAGES.items()
    for module in pkgutil.walk_packages(package.__path__, prefix=f"{name}.")
    if not (module.ispkg or module.name.endswith(".__main__"))
]


def _as_ruff_sorts(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_of_a_package_are_sorted_and_exactly_what_it_imports(name: str) -> None:
    package = PACKAGES[name]
    assert package.__all__ == sorted(set(package.__all__), key=_as_ruff_sorts)
    found = {n for n, v in vars(package).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}
    assert found - {"annotations"} == set(package.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_declares_its_public_names_and_has_them(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__all__ == sorted(set(module.__all__), key=_as_ruff_sorts)
    assert [n for n in module.__all__ if not hasattr(module, n)] == []
    own = {
        n
        for n, v in vars(module).items()
        if not n.startswith("_") and getattr(v, "__module__", None) == name and callable(v)
    }
    assert own <= set(module.__all__), "what is not public starts with an underscore"


@pytest.mark.parametrize("name", PACKAGES)
def test_star_import_gives_the_public_names(name: str) -> None:
    space: dict[str, object] = {}
    exec(f"from {name} import *", space)
    assert set(space) - {"__builtins__"} == set(PACKAGES[name].__all__)


def test_type_information_ships_with_both_packages() -> None:
    for package in PACKAGES.values():
        assert Path(package.__path__[0], "py.typed").is_file()
