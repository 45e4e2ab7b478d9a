"""The house's rule: a room imports only from the rooms below it (DESIGN: an arrow points to what a room may import)."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "dynamick"
ROOT = {"discovery", "durations", "errors", "files", "preprocessing", "progress", "seeding", "settings", "torchvision_shim"}
ARROWS: dict[str, set[str]] = {
    "discovery": set(),
    "errors": set(),
    "durations": set(),
    "files": set(),
    "preprocessing": {"errors"},
    "progress": set(),
    "seeding": set(),
    "settings": {"errors"},
    "torchvision_shim": set(),
    "ops": set(),
    "functional": {"ops"},
    "nn": {"functional", "ops"},
    "models": {"nn", "functional"},
    "checkpoint": {"networks"},
    "networks": {"models", "data", "nn", "functional"},
    "data": set(),
    "metrics": {"functional"},
    "dissection": {"data", "networks"},
    "explanation": {"models", "networks", "functional", "nn", "data", "dissection", "metrics", "report"},
    "training": {"models", "networks", "nn", "functional", "ops", "optim", "data", "metrics", "dissection", "checkpoint"},
    "comparison": {"training", "networks", "dissection", "explanation", "data", "metrics", "nn", "checkpoint"},
    "figures": {
        "training",
        "comparison",
        "explanation",
        "dissection",
        "data",
        "metrics",
        "models",
        "optim",
        "nn",
        "functional",
        "checkpoint",
    },
    "demo": {"training", "explanation", "dissection", "report", "data", "networks", "checkpoint"},
    "optim": {"functional", "nn"},
    "report": set(),
}
EVERYTHING = {"cli", "__init__"}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides the room"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = [name.split(".") for name in names if name.split(".")[0] == "dynamick"]
    return {parts[1] for parts in ours if len(parts) > 1}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    if room in EVERYTHING:
        return
    assert room in ARROWS, f"{room} is no room; say in ARROWS what it may import"
    assert imported_rooms(path) - {room} <= ARROWS[room] | ROOT


def test_the_rule_can_fail() -> None:
    assert "networks" in imported_rooms(SOURCE / "checkpoint.py")
    assert "training" not in ARROWS["models"]
