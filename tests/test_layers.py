"""Imports point one way: cli -> api -> (report, export) -> evaluation -> training -> ... -> base."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "finetune"

# Lower layers first; rooms of one layer may not import each other.
LAYERS = [
    {"errors", "version"},
    {
        "registry",
        "files",
        "resources",
        "events",
        "regularise",
        "averaging",
        "interval",
        "ranks",
        "task",
        "start",
        "compiler",
    },
    {"solvers", "cache_files", "process_group", "recipe_values"},
    {"recipe_sections", "recipe_text"},
    {"recipe", "runtime", "coach", "launch"},
    {"data", "caches"},
    {"augment"},
    {"zoo"},
    {"features"},
    {"strategy", "audit"},
    {"training"},
    {"pretraining"},
    {"evaluation"},
    {"report", "export"},
    {"run_folder", "cookbook"},
    {"advice"},
    {"race", "result"},
    {"pipeline"},
    {"crossval"},
    {"api", "rehearsal"},
    {"classifier", "search", "ensemble"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import on line {node.lineno}"
            names = (
                [f"{node.module}.{a.name}" for a in node.names]
                if node.module == "finetune"
                else [node.module or ""]
            )
        rooms |= {name.split(".")[1] for name in names if name.startswith("finetune.")}
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room in {"__init__", "__main__"}:
        return
    assert room in LEVEL, f"{room} has no layer: add it to LAYERS"
    for other in imported_rooms(path) - {room}:
        allowed = LEVEL[other] < LEVEL[room]
        assert allowed, f"{path.name}: {room} must not import {other}"


def test_no_room_is_called_utils() -> None:
    assert not [p for p in MODULES if p.stem in {"utils", "util", "helpers", "misc", "common"}]
