"""Do the packages keep their walls?"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import dni

ROOT = Path(__file__).parents[1]
DNI = sorted((ROOT / "dni").rglob("*.py"))
PIPELINE = sorted((ROOT / "pipeline").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))

FORBIDDEN_IN_DNI = (
    *("pipeline", "experiments", "torch.distributed", "torch.multiprocessing", "threading", "multiprocessing"),
    *("concurrent", "asyncio", "queue", "subprocess", "socket", "signal", "time", "datetime", "pathlib", "os", "io"),
    *("shutil", "tempfile", "logging"),
)
FORBIDDEN_CALLS_IN_DNI = ("open", "print", "input", "torch.save", "torch.load", "torch.set_num_threads")
USERS_OF_DNI = {
    "configuration": ("blocks", "config", "curvature", "methods", "plan", "prepared", "quickstart", "run", "timeline"),
    "learners": (
        *(
            "agenda",
            "body",
            "boundary",
            "carrying",
            "curvature",
            "decay",
            "flops",
            "held_masks",
            "idle",
            "in_flight",
            "input_learner",
        ),
        *("late_weights", "learner", "leaves", "movement", "parts", "phases", "probe", "remapped", "source_learner"),
        *("structure", "updater", "view", "watch", "weights"),
    ),
    "probes": ("curvature", "hessian", "landscape", "network", "probe", "representations", "work"),
    "records": ("network_file",),
    "stages": ("awaited", "participants", "stage_settings"),
    "virtual_time": ("timed",),
}
WAITING_OR_TALKING = ("threading", "queue", "socket", "multiprocessing", "concurrent", "asyncio", "torch.distributed")
MAY_WAIT_OR_TALK = ("executors", "transports", "commands/display.py", "randomness/turns.py")
LOWER = {
    "randomness": ("clock", "errors", "messages"),
    "stages": ("clock", "errors", "messages", "randomness", "learners"),
    "learners": ("clock", "data", "errors", "messages", "randomness", "stages"),
    "transports": ("clock", "configuration", "errors", "messages"),
}
"""What the packages that carry, decide and compute may import: nothing of who drives them, and nothing that is kept."""


@dataclass(frozen=True)
class Import:
    """One name that a file imports."""

    file: str
    line: int
    module: str
    name: str
    """Empty for `import module`."""

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module

    def reaches(self, package: str) -> bool:
        """Whether this import loads `package`, or something in it."""
        return self.full == package or f"{self.full}.".startswith(f"{package}.")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.full}"


@cache
def _imports(path: Path) -> tuple[Import, ...]:
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[Import]:
    file = str(path.relative_to(ROOT))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute"
            for alias in node.names:
                yield Import(file, node.lineno, node.module or "", alias.name)


def _calls(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def _place(path: Path) -> tuple[str, str]:
    """The sub-package of `pipeline`, and the module."""
    inside = path.relative_to(ROOT / "pipeline").parts
    return inside[0] if len(inside) > 1 else path.stem, path.stem


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _reaching(files: list[Path], packages: tuple[str, ...]) -> list[str]:
    return [str(found) for path in files for found in _imports(path) if any(map(found.reaches, packages))]


def test_there_is_something_to_look_at() -> None:
    assert len(DNI) > 10 and len(PIPELINE) > 20 and EXPERIMENTS


def test_dni_imports_neither_runtime_nor_threads_clocks_or_files() -> None:
    assert _reaching(DNI, FORBIDDEN_IN_DNI) == []


def test_dni_calls_nothing_that_prints_or_touches_files() -> None:
    assert [
        f"{path.name}:{line} calls {name}"
        for path in DNI
        for line, name in _calls(path)
        if name in FORBIDDEN_CALLS_IN_DNI
    ] == []


def test_pipeline_does_not_import_experiments() -> None:
    assert _reaching(PIPELINE, ("experiments", "tests")) == []


def test_no_package_imports_the_tests() -> None:
    assert _reaching(DNI + PIPELINE + EXPERIMENTS, ("tests",)) == []


def test_dni_is_used_by_few_modules_of_pipeline_and_by_its_public_names_only() -> None:
    used = [(path, found) for path in PIPELINE for found in _imports(path) if found.reaches("dni")]
    assert {_place(path) for path, _ in used} <= {(p, stem) for p, stems in USERS_OF_DNI.items() for stem in stems}
    assert [str(found) for _, found in used if found.module != "dni" or found.name not in dni.__all__] == []


def test_only_transports_executors_and_displays_wait_or_talk() -> None:
    allowed = [ROOT / "pipeline" / name for name in MAY_WAIT_OR_TALK]
    others = [path for path in PIPELINE if not {path, *path.parents} & set(allowed)]
    assert _reaching(others, WAITING_OR_TALKING) == []


@pytest.mark.parametrize("package", LOWER)
def test_package_imports_only_what_is_below_it(package: str) -> None:
    files = [path for path in PIPELINE if _place(path)[0] == package]
    lower = [f"pipeline.{name}" for name in (package, *LOWER[package])]
    assert [
        str(found)
        for path in files
        for found in _imports(path)
        if found.reaches("pipeline") and not any(map(found.reaches, lower))
    ] == []


def test_stage_sees_no_clock_file_process_or_executor() -> None:
    stage = [path for path in PIPELINE if path.stem in ("stage", "stash", "updater", "messages", "evaluation")]
    unseen = ("time", "pathlib", "os", "threading", "torch.distributed", "pipeline.virtual_time", "pipeline.executors")
    assert _reaching(stage, unseen) == []


def test_no_experiment_imports_another() -> None:
    folders = {path.name for path in (ROOT / "experiments").iterdir() if path.is_dir()}
    crossing = []
    for path in EXPERIMENTS:
        inside = path.relative_to(ROOT / "experiments").parts
        own = inside[0] if len(inside) > 1 else ""
        others = tuple(f"experiments.{folder}" for folder in folders - {own})
        crossing += _reaching([path], others)
    assert crossing == []


@pytest.mark.parametrize("package", ["dni", "pipeline"])
def test_no_import_cycles_among_the_modules_of(package: str) -> None:
    files = {_module(path): path for path in (DNI if package == "dni" else PIPELINE) if path.stem != "__init__"}
    graph = {
        module: {other for found in _imports(path) for other in (found.module, found.full) if other in files} - {module}
        for module, path in files.items()
    }
    assert any(graph.values())
    while leaves := {module for module, uses in graph.items() if not uses & graph.keys()}:
        graph = {module: uses for module, uses in graph.items() if module not in leaves}
    assert graph == {}, "these modules import one another in a circle, or use one that does"


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("import time", "time"),
        ("from torch import distributed", "torch.distributed"),
        ("from os.path import join", "os"),
    ],
)
def test_search_finds_every_form_of_import(source: str, package: str, tmp_path: Path) -> None:
    node = next(iter(ast.parse(source).body))
    assert isinstance(node, ast.Import | ast.ImportFrom)
    module = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
    name = "" if isinstance(node, ast.Import) else node.names[0].name
    assert Import("x.py", 1, module, name).reaches(package)
    assert not Import("x.py", 1, "timeline", "").reaches("time")
