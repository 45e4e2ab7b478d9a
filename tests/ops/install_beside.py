"""Install one release of PyTorch and what the package needs beside it: python tests/ops/install_beside.py VERSION.

The package itself is not installed, for its range of releases would refuse those that are only tried out.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
TESTS = ("hypothesis", "pytest", "pytest-timeout")


def requirements(version: str) -> list[str]:
    """PyTorch of this version, the package's other dependencies, and what the tests of ops and nn use."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    others = [each for each in project["dependencies"] if not each.startswith("torch>")]
    return [f"torch=={version}", *others, *TESTS]


if __name__ == "__main__":
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    sys.exit(subprocess.run([*pip, *requirements(sys.argv[1])]).returncode)
