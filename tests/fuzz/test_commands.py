"""The same damaged files, given to the commands: status 0, or status 2 and one line; never a traceback, never status 1."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from PIL import Image

import dynamick as dk
from dynamick.cli.main import main
from tests.fuzz.ending import at_most
from tests.fuzz.mutating import mutated
from tests.fuzz.subjects import OTHERS, SUBJECTS, make_state_dict, network

TRIED = -(-int(os.environ.get("DYNAMICK_FUZZ", "400")) // 50)
SEED = int(os.environ.get("DYNAMICK_FUZZ_SEED", "0"))
SECONDS = 120
SHORTEST = 20
"""A line that says something has so many letters at least."""

# The command for a kind of file; {files} is the folder of it, {beside} one with weights.safetensors and image.png.
EXPLAIN = "explain --images {beside}/image.png --json {beside}/out.json"
DISSECT = "dissect --model res8-d2a --weights {beside}/weights.safetensors --layer layer1 --quantile 0.8 --batch-size 1"
COMMANDS = {
    "weights": f"{EXPLAIN} --weights {{files}}/w.safetensors",
    "weights of others": f"{EXPLAIN} --weights {{files}}/weights.safetensors",
    "state dict": f"{EXPLAIN} --model {OTHERS} --weights {{files}}/weights.pt",
    "class names": f"{EXPLAIN} --model {OTHERS} --weights {{beside}}/weights.pt --classes {{files}}/classes.txt",
    "tally": f"{EXPLAIN} --weights {{beside}}/weights.safetensors --units {{files}}/tally.csv",
    "dissection.json": f"{EXPLAIN} --weights {{beside}}/weights.safetensors --units {{files}}/dissection.json",
    "Broden directory": f"{DISSECT} --data {{files}}/set --out {{beside}}/dissected",
    "masks": f"{DISSECT} --data {{files}}/set --out {{beside}}/dissected",
    "folders of classes": f"{EXPLAIN} --weights {{beside}}/weights.safetensors --images {{files}}/train",
    "run folder": "evaluate {files}/last.safetensors",
    "recipe": "train {files}/recipe.yaml --out {beside}/run",
}


def lay(name: str, good: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of a kind's good files, and the command that reads them."""
    folder, beside = tmp_path / "files", tmp_path / "beside"
    for each in (folder, beside):
        shutil.rmtree(each, ignore_errors=True)
    shutil.copytree(good, folder)
    beside.mkdir()
    dk.save(network(), beside / "weights.safetensors")
    if "weights.pt" in COMMANDS[name]:
        make_state_dict(beside)
    Image.new("RGB", (9, 8), (90, 40, 20)).save(beside / "image.png")
    return folder, [part.format(files=folder, beside=beside) for part in COMMANDS[name].split()]


def ended(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """A command's exit status, and what it said on stderr, but for notes and bars of progress."""
    capsys.readouterr()
    status = 0
    try:
        with at_most(SECONDS):
            main(argv)
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr().err.splitlines()
    return status, [line for line in said if not re.search(r"^dynamick: note: |\d+/\d+ \w+, ", line)]


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_read_good_files(
    name: str, good: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, argv = lay(name, good(name), tmp_path)
    status, lines = ended(argv, capsys)
    assert status == 0, lines


@pytest.mark.timeout(max(300, 20 * TRIED))
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_end_right_or_in_one_line(
    name: str, good: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    falls = []
    files = sorted(each.relative_to(good(name)) for each in good(name).glob(SUBJECTS[name].files) if each.is_file())
    for number in range(TRIED):
        random = Random(f"{SEED} command {name} {number}")
        folder, argv = lay(name, good(name), tmp_path)
        file = folder / random.choice(files)
        file.write_bytes(mutated(file.name, file.read_bytes(), random))
        status, lines = ended(argv, capsys)
        if status == 0:
            continue
        if status != 2 or len(lines) != 1 or not lines[0].startswith("dynamick: ") or len(lines[0]) < SHORTEST:
            falls.append(f"{number} {file.name}: status {status}, {len(lines)} lines: {lines}"[:600])
    assert not falls, "\n".join([f"{len(falls)} falls", *falls])
