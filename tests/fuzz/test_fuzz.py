"""Damaged files of every kind: whoever reads one gets what is in it, or one line that says what is wrong. Nothing else.

DYNAMICK_FUZZ sets how many files are tried in all (400 where it is not set), and DYNAMICK_FUZZ_SEED which ones. `make fuzz`
tries 10,000.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.ending import fall
from tests.fuzz.mutating import mutated
from tests.fuzz.subjects import SUBJECTS

TRIED = int(os.environ.get("DYNAMICK_FUZZ", "400"))
SEED = int(os.environ.get("DYNAMICK_FUZZ_SEED", "0"))
SHOWN = 20
"""So many of what went wrong are shown."""


@pytest.mark.parametrize("name", SUBJECTS)
def test_good_files_are_read(name: str, good: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(good(name), tmp_path / "files")
    SUBJECTS[name].use(tmp_path / "files")


@pytest.mark.timeout(max(300, TRIED))
@pytest.mark.parametrize("name", SUBJECTS)
def test_damaged_files_end_in_one_line_or_right(name: str, good: Callable[[str], Path], tmp_path: Path) -> None:
    subject, folder, falls = SUBJECTS[name], tmp_path / "files", []
    files = sorted(each.relative_to(good(name)) for each in good(name).glob(subject.files) if each.is_file())
    for number in range(-(-TRIED // len(SUBJECTS))):
        random = Random(f"{SEED} {name} {number}")
        shutil.copytree(good(name), folder)
        file = folder / random.choice(files)
        file.write_bytes(mutated(file.name, file.read_bytes(), random))
        if (wrong := fall(subject.use, folder)) is not None:
            falls.append(f"{number} {file.name}: {wrong}")
        shutil.rmtree(folder)
    assert not falls, "\n".join([f"{len(falls)} falls", *falls[:SHOWN]])
