"""The CPU kernel's tests with AddressSanitizer and UndefinedBehaviorSanitizer: python tests/ops/sanitize.py [PYTEST OPTIONS].

It compiles the kernel into a temporary folder, starts itself again with the sanitizer's library loaded first (Python itself is
not built with it), and ends with pytest's exit status; what a sanitizer finds ends the run at once.
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = ["-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-Wno-psabi", "-fPIC", "-fvisibility=hidden", "-shared", "-pthread"]
# Sorting in registers is written out for every number of products; up to 4, with the rows for more, says as much as up to 16.
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-DSORTED=4"]


def main() -> int:
    """Compile, and run the tests in a process of their own."""
    from dynamick.ops import cpu

    with tempfile.TemporaryDirectory() as folder:
        # Two minutes a level.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda level: compile_level(level, folder), cpu.LEVELS))
        first = [
            subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        environment = {
            **os.environ,
            "LD_PRELOAD": ":".join(first),
            "ASAN_OPTIONS": "detect_leaks=0",
            "DYNAMICK_SANITIZED": folder,
        }
        return subprocess.run([sys.executable, __file__, *sys.argv[1:]], env=environment, cwd=ROOT).returncode


def compile_level(level: str, folder: str) -> None:
    """One library, in a folder."""
    march = [] if level == "portable" else [f"-march=x86-64-{level}"]
    target = f"{folder}/dynamic_k_{level}.so"
    sources = sorted(map(str, (ROOT / "csrc").glob("*.cpp")))
    subprocess.run(["g++", *FLAGS, *SANITIZE, *march, *sources, "-o", target], check=True)


def run_tests(folder: Path) -> int:
    """The kernel's tests, with the libraries of a folder."""
    import pytest

    from dynamick.ops import cpu

    # Only this process is to load the sanitizer first, not those that the tests start.
    del os.environ["LD_PRELOAD"]
    cpu.FOLDER = folder
    cpu.kernel = cpu.load(None)
    tests = [
        str(Path(__file__).with_name(name))
        for name in ("test_cpu_kernel.py", "test_cpu_kernel_loading.py", "test_conv_kernel.py")
    ]
    return int(pytest.main(["-p", "no:cacheprovider", *tests, *sys.argv[1:]]))


if __name__ == "__main__":
    sanitized = os.environ.pop("DYNAMICK_SANITIZED", None)
    sys.exit(run_tests(Path(sanitized)) if sanitized else main())
