"""The commands' manners: help, exit status, one line for bad input, a traceback only when asked for."""

import subprocess
import sys

import pytest

from dynamick.cli.main import COMMANDS, main
from dynamick.settings import keys_of
from dynamick.training.recipe import Recipe


def status(*args: str) -> int:
    try:
        main(list(args))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(command, "--help") == 0
    assert f"dynamick {command}" in capsys.readouterr().out


def test_no_command_shows_three_to_begin_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert status() == 0
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  dynamick ")]
    assert len(shown) == 3
    assert set(shown) <= set(COMMANDS)


def test_help_of_train_shows_the_named_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("train", "--help") == 0
    bare = " ".join(capsys.readouterr().out.split())
    assert status("train", "cifar10-small", "--help") == 0
    named = " ".join(capsys.readouterr().out.split())
    recipe, plain = Recipe.read("cifar10-small"), Recipe()
    for name, key in keys_of(Recipe).items():
        assert f"--{name} {key.shown} {key.says} (default:" in bare
        assert f"--{name} {key.shown} {key.says} (here:" in named
    assert f"the highest learning rate (here: {recipe.optim.lr}" in named
    assert f"passes over the training images (here: {recipe.optim.epochs}; default: {plain.optim.epochs})" in named
    assert status("train", "no-recipe", "--help") == 2


@pytest.mark.parametrize("args", [("nonsense",), ("train",), ("evaluate", "--colour")])
def test_bad_usage_is_one_line(args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert status(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("dynamick: ")


def test_a_traceback_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("evaluate", "nowhere.safetensors") == 2
    assert "Traceback" not in capsys.readouterr().err
    assert status("--traceback", "evaluate", "nowhere.safetensors") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m dynamick.cli --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    import dynamick

    assert status("--version") == 0
    assert capsys.readouterr().out.strip() == f"dynamick {dynamick.__version__}"
