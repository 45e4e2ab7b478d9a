"""Documents are true: their code runs, their links lead somewhere, and the recipes that they name are there."""

import re
from pathlib import Path

import pytest

import dynamick as dk
from dynamick.cli.train import parse
from dynamick.training.recipe import recipe_path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page: Path) -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("path", sorted((Path(dk.__file__).parent / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    assert recipe_path(path.stem) == path
    recipe = parse(["--config", str(path)])
    recipe.check()
    assert path.read_text().startswith("# ")
