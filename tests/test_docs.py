"""Documents are true: their code runs, their links lead somewhere, and the recipes that they name are there."""

import re
import subprocess
from pathlib import Path

import pytest

import dynamick as dk
from dynamick.training import Recipe
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


def tracked() -> dict[str, str]:
    """The text of every file that this repository keeps, where it is text."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0")
    paths = [ROOT / name for name in names if name.endswith((".py", ".md", ".cpp", ".h", ".yaml", ".ipynb", ".js", ".html"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths if path.exists()}


def test_cited_headings_are_there() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout, so it is not known which files belong to the repository")
    headings = set(re.findall(r"^## (.+)$", (ROOT / "docs" / "definitions.md").read_text(), re.MULTILINE))
    for name, text in tracked().items():
        for cited in re.findall(r'definitions\.md, "([^"]+)"', text):
            assert cited in headings, f"{name} cites {cited!r}, which docs/definitions.md does not have"


def test_files_that_contributors_are_led_to_are_there() -> None:
    sources = {path.relative_to(Path(dk.__file__).parent).as_posix() for path in Path(dk.__file__).parent.rglob("*.py")}
    for named in re.findall(r"`([\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text()):
        assert (ROOT / named).exists() or any(f"/{each}".endswith(f"/{named}") for each in sources), named


@pytest.mark.parametrize("path", sorted((Path(dk.__file__).parent / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    assert recipe_path(path.stem) == path
    Recipe.read(path).check()
    assert path.read_text().startswith("# ")
