"""The commands' manners: help, exit status, one line for bad input, a traceback only when asked for."""

import subprocess
import sys

import pytest

from dynamick.cli.main import COMMANDS, main


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


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert status() == 0
    assert all(command in capsys.readouterr().out or command for command in COMMANDS)


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
