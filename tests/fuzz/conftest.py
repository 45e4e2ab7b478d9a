"""Undamaged files of every kind, made once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.subjects import SUBJECTS


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of undamaged files of a kind, made when it is first asked for."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("good") / "files"
            folder.mkdir()
            SUBJECTS[name].make(folder)
            made[name] = folder
        return made[name]

    return of
