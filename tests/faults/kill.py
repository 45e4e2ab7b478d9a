"""Kills a command at every moment at which it changes a file, and starts it again: it must end as one that nobody killed.

    python tests/faults/kill.py COMMAND [--moments 3] [--seed 0]

The moments are found by listening to a first run. Each later run is forked from this process, which has by then imported what
they import.
"""

import argparse
import importlib
import io
import json
import os
import random
import re
import shlex
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from commands import COMMANDS, FIRST, OUT, inputs
from tracing import Moments

from dynamick.cli.main import main

TIMES = re.compile(r'("?(?:\w*seconds\w*|began|took)"?\s*[:=]\s*)[\d.e+-]+')
"""How long something took is another number in every run."""


def forked(body: Callable[[], int]) -> int:
    """Run a function in a copy of this process: its exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = body()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(name: str, folder: Path, last: int | None, log: Path) -> int:
    """Run a command in a folder of its own up to a moment, and write down which moments there were."""

    def body() -> int:
        os.chdir(folder)
        said, status = io.StringIO(), 0
        with redirect_stdout(said), redirect_stderr(said):
            moments = Moments(folder, last)
            try:
                main(shlex.split(COMMANDS[name]))
            except SystemExit as stop:
                status = int(stop.code or 0)
            moments.reached("the end")
        log.write_text(json.dumps({"moments": moments.seen, "said": said.getvalue(), "modules": list(sys.modules)}))
        return status

    return forked(body)


def import_all(modules: list[str]) -> None:
    """Import what a run imported, so that the next ones need not."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            with suppress(Exception):
                importlib.import_module(name)


def fresh(work: Path, name: str, number: str) -> Path:
    """A folder in which the command finds its inputs."""
    folder = work / number
    folder.mkdir()
    (folder / "inputs").symlink_to("../inputs")
    FIRST.get(name, lambda _: None)(folder)
    return folder


def made(folder: Path) -> dict[str, Any]:
    """All that a command left, by name: tensors, text without times, bytes."""
    found: dict[str, Any] = {}
    for path in sorted((folder / OUT).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or "tensorboard" in name or path.name == ".lock":
            continue
        if path.suffix == ".safetensors":
            found[name] = {key: _bits(tensor) for key, tensor in safetensors.torch.load_file(path).items()}
        elif path.suffix == ".ckpt":
            found[name] = timeless(torch.load(path, weights_only=False))
        elif path.suffix == ".csv":
            found[name] = _without_times(path.read_text())
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.suffix in (".html", ".svg", ".yaml"):
            found[name] = TIMES.sub(r"\1", path.read_text())
        else:
            found[name] = path.read_bytes()
    return found


def _bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.flatten().view(torch.uint8).numpy())


def timeless(value: Any) -> Any:
    """Plain values without what is said of the run itself: how long it took, and what it measured of the machine."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if "seconds" not in str(key) and key != "measured"}
    if isinstance(value, torch.Tensor):
        return _bits(value)
    return [timeless(each) for each in value] if isinstance(value, list | tuple) else value


def _without_times(text: str) -> list[list[str]]:
    rows = [line.split(",") for line in text.splitlines()]
    return [[cell for cell, title in zip(row, rows[0], strict=False) if "seconds" not in title] for row in rows]


def differences(want: dict[str, Any], got: dict[str, Any], loose: set[str]) -> list[str]:
    """Which files are missing, too many or other ones. Those of `loose` differ between any two runs, and must only be there."""
    away = [f"{name} is missing" for name in want.keys() - got.keys()]
    more = [f"{name} is left" for name in got.keys() - want.keys()]
    other = [f"{name} is another" for name in want.keys() & got.keys() if name not in loose and want[name] != got[name]]
    return sorted(away + more + other)


def told(line: str) -> str:
    """The same line; it is shown at once."""
    print(line, flush=True)
    return line


def faults(name: str, work: Path, count: int | None, seed: int) -> list[str]:
    """What went wrong, one line for each moment."""
    log = work / "log.json"
    whole = [fresh(work, name, f"whole{number}") for number in range(2)]
    for folder in whole:
        if command(name, folder, None, log):
            return [told(f"{name}: fails without being killed: {json.loads(log.read_text())['said'][-500:]}")]
        import_all(json.loads(log.read_text())["modules"])
    moments = json.loads(log.read_text())["moments"]
    want, again = map(made, whole)
    loose = {each for each in want if want[each] != again.get(each)}
    chosen = range(1, len(moments) + 1)
    if count is not None and count < len(moments):
        chosen = sorted(random.Random(seed).sample(chosen, count))
    told(f"{name}: {len(chosen)} of {len(moments)} moments; other in any two runs: {', '.join(sorted(loose)) or 'nothing'}")
    found = []
    for moment in chosen:
        wrong = one(name, work, moment, want, loose, log)
        found += [told(f"{name}: killed at moment {moment}, {moments[moment - 1]}: {each}") for each in wrong]
    return found


def one(name: str, work: Path, moment: int, want: dict[str, Any], loose: set[str], log: Path) -> list[str]:
    """What is wrong after a command was killed at a moment and started again."""
    folder = fresh(work, name, f"killed{moment}")
    ended = command(name, folder, moment, log)
    if ended not in (-signal.SIGKILL, 0):
        return [f"ended with {ended}"]
    if command(name, folder, None, log):
        return [f"does not go on: {json.loads(log.read_text())['said'].strip().splitlines()[-1][:300]}"]
    return differences(want, made(folder), loose)


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="*", default=list(COMMANDS), help=f"of {', '.join(COMMANDS)} (default: all)")
    parser.add_argument("--moments", type=int, help="so many of them, by chance (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the chance")
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as work:
        forked(lambda: inputs(Path(work) / "inputs") or 0)  # type: ignore[func-returns-value]
        for name in args.command:
            (Path(work) / name).mkdir()
            (Path(work) / name / "inputs").symlink_to("../inputs")
            found += faults(name, Path(work) / name, args.moments, args.seed)
    print(f"{len(found)} faults")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(run())
