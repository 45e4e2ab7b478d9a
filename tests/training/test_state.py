"""A state that no training goes on from is refused in one line that says why; a folder has one run at a time."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamick.errors import InputError
from dynamick.files import alone
from dynamick.training import Recipe, train

WHY: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "tensors alone": (lambda state: state["state_dict"], "of another kind than a training's state: it has no epoch"),
    "a list": (lambda state: [1, 2], "of another kind than a training's state: a list"),
    "a module": (lambda state: torch.nn.Linear(2, 2), "it holds objects that are not loaded, for they could run code"),
    "another network": (
        lambda state: state | {"state_dict": {name: torch.zeros(3) for name in state["state_dict"]}},
        "it does not fit this training: ",
    ),
    "no optimiser": (
        lambda state: state | {"optimizer_states": []},
        "of another kind than a training's state: its optimizer_st",
    ),
    "another optimiser": (
        lambda state: state | {"optimizer_states": [{"state": {}, "param_groups": []}]},
        "it does not fit this training: ",
    ),
    "nothing measured": (lambda state: state | {"callbacks": {"Keeper": {"history": []}}}, "not hold what was measured"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path, bytes]:
    """A recipe, the folder of a run of it that was interrupted after its first epoch, and its state."""
    out = tmp_path_factory.mktemp("runs") / "run"
    recipe = Recipe.read(None, {"model": "res8-d3a", "stem": "compact", "width": 8, "precision": 32, "data.kind": "scenes"})
    recipe.data.size, recipe.data.train_images, recipe.data.val_images = 32, 64, 20
    recipe.optim.epochs, recipe.optim.batch_size = 1, 32
    train(recipe, out)
    (out / "result.json").unlink()
    return recipe, out, (out / "last.ckpt").read_bytes()


def refused(run: tuple[Recipe, Path, bytes], state: bytes) -> str:
    recipe, out, _ = run
    (out / "result.json").unlink(missing_ok=True)
    (out / "last.ckpt").write_bytes(state)
    with pytest.raises(InputError) as caught:
        train(recipe, out)
    said = str(caught.value)
    assert said.startswith(f"{out / 'last.ckpt'}: no readable checkpoint (")
    assert said.endswith("); take it away, or begin again (--restart)")
    assert "\n" not in said
    return said


@pytest.mark.parametrize("kind", WHY)
def test_a_state_of_another_kind_says_which(kind: str, run: tuple[Recipe, Path, bytes]) -> None:
    change, why = WHY[kind]
    buffer = io.BytesIO()
    torch.save(change(torch.load(io.BytesIO(run[2]), weights_only=True)), buffer)
    assert why in refused(run, buffer.getvalue())


def test_a_state_that_is_no_archive_of_pytorchs(run: tuple[Recipe, Path, bytes]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "hello")
    for state in (b"", b"hello" * 100, run[2][:-200], (run[1] / "last.safetensors").read_bytes()):
        assert "truncated or damaged, or another program's" in refused(run, state)
    refused(run, buffer.getvalue())


def test_a_second_run_in_a_folder_is_refused_and_leaves_the_first_alone(run: tuple[Recipe, Path, bytes]) -> None:
    recipe, out, state = run
    (out / "result.json").unlink(missing_ok=True)
    (out / "last.ckpt").write_bytes(state)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with alone(out), pytest.raises(InputError, match="another process is filling this"):
        train(recipe, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_what_a_dead_process_left_is_taken_away_even_from_a_finished_run(run: tuple[Recipe, Path, bytes]) -> None:
    recipe, out, state = run
    (out / "result.json").unlink(missing_ok=True)
    (out / "last.ckpt").write_bytes(state)
    for _ in range(2):  # the run ends, and is asked for again
        (out / ".last.ckpt.123-456").write_bytes(b"half a state")
        train(recipe, out)
        assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_a_precision_may_be_written_as_a_number(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("precision: 32\n")
    assert Recipe.read(tmp_path / "r.yaml").precision == "32"
