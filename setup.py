"""Compiles the CPU kernel at install: one plain shared library per level of x86-64, without PyTorch's headers.

The install succeeds where no compiler is found or a compilation fails: the package then uses its PyTorch path, and
`dynamick doctor` shows what `build.txt`, written here beside the libraries, says about it.
"""

import os
import platform
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = ["csrc/dynamic_k.cpp", "csrc/convolution.cpp"]
PACKAGE = Path("dynamick/ops/_native")
# No contraction to fused multiply-adds: products are compared as PyTorch rounds them. No -ffast-math for the same reason.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-Wno-psabi", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"]
MARCH = {level: f"-march=x86-64-{level}" for level in ("v2", "v3", "v4")}


def compiler() -> list[str] | None:
    """The command of a C++ compiler: CXX where it is set, else the first found."""
    named = shlex.split(os.environ.get("CXX", ""))
    candidates = [named] if named else [["c++"], ["g++"], ["clang++"]]
    return next((each for each in candidates if shutil.which(each[0])), None)


def compile_level(command: list[str], level: str, folder: Path) -> str:
    """Compile one library; returns a line that says what came of it."""
    target, unfinished = folder / f"dynamic_k_{level}.so", folder / f"dynamic_k_{level}.unfinished"
    target.unlink(missing_ok=True)
    march = [MARCH[level]] if level in MARCH else []
    try:
        done = subprocess.run([*command, *FLAGS, *march, *SOURCES, "-o", str(unfinished)], capture_output=True, text=True)
    except OSError as error:
        return f"{level}: {' '.join(command)} failed: {error}"
    if done.returncode == 0:
        # A library that is cut off would end the process that loads it: never under its name, and its size is noted.
        unfinished.replace(target)
        return f"{level}: compiled by {command[0]}, {target.stat().st_size} bytes"
    unfinished.unlink(missing_ok=True)
    said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no message"]
    return f"{level}: {' '.join(command)} failed: {said[0].strip()}"


class BuildKernels(build_ext):
    """Fills the package's `_native` folder: in the source tree for an editable install, in the build folder otherwise."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        folder = (Path("src") if in_place else Path(self.build_lib)) / PACKAGE
        folder.mkdir(parents=True, exist_ok=True)
        levels = list(MARCH) if platform.machine().lower() in ("x86_64", "amd64") else ["portable"]
        command = compiler()
        if command is None:
            lines = [
                f"{level}: no C++ compiler was found at install ({os.environ.get('CXX') or 'c++, g++, clang++'})"
                for level in levels
            ]
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                lines = list(pool.map(lambda level: compile_level(command, level, folder), levels))
        (folder / "build.txt").write_text("".join(line + "\n" for line in lines))

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


# The extension names no Python module: it makes setuptools run the build above and put the sources into an sdist.
KERNEL = Extension("dynamick.ops._native.dynamic_k", SOURCES, depends=sorted(map(str, Path("csrc").glob("*.h"))))
setup(ext_modules=[KERNEL], cmdclass={"build_ext": BuildKernels})
