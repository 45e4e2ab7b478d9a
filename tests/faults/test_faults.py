"""A sample of the moments at which a command may be killed; `make faults` tries all of them."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
COMMANDS = runpy.run_path(str(HERE / "commands.py"))["COMMANDS"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_ends_as_if_nobody_had_killed_it(name: str) -> None:
    given = [sys.executable, HERE / "kill.py", name, "--moments", "1", "--seed", "0"]
    done = subprocess.run(given, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
