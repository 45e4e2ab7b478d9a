"""Which library of the CPU kernel is loaded, and what is said where none can be, or not the best one."""

import argparse
import os
import shutil
import subprocess
import sys

import pytest
import torch

from dynamick.cli import doctor
from dynamick.ops import cpu, registry
from tests.ops.kernel_problems import NO_KERNEL, levels


@pytest.mark.skipif(cpu.kernel is None and os.environ.get("DYNAMICK_CPU_LEVEL") is not None, reason="a level is forced")
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here")
def test_where_there_is_a_compiler_there_is_a_kernel() -> None:
    assert cpu.kernel is not None, registry.absent()


def run_with(level: str, code: str) -> str:
    environment = {**os.environ, "DYNAMICK_CPU_LEVEL": level}
    return subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout


@NO_KERNEL
def test_libraries_of_one_process_keep_to_themselves() -> None:
    """The lowest level is loaded first here: what two libraries name alike must not be taken from there by the others."""
    code = f"""
import torch
from dynamick.ops import cpu
torch.manual_seed(0)
x, w = torch.randn(40, 300), torch.randn(20, 300)
for level in {levels()[::-1]}:
    cpu.kernel = cpu.load(level)
    for k in (3, 40):
        best = (x[:, None] * w).topk(k).values.clamp(min=0).sum(-1)
        torch.testing.assert_close(cpu.sum_cpu(x, w, None, None, k, "at_most"), best)
print("all")
"""
    assert run_with(levels()[-1], code).strip() == "all"


def test_none_disables_the_kernel_and_says_so() -> None:
    said = run_with("none", "from dynamick.cli import doctor; print(*doctor.findings(), sep='\\n')")
    assert "dynamic_linear on the CPU in float32: chunked" in said
    assert "cpu: cannot run here: DYNAMICK_CPU_LEVEL=none" in said
    code = "import torch, dynamick.functional as f; x = torch.ones(1, 1)\ntry: f.dynamic_linear(x, x, implementation='cpu')\n"
    assert "cannot run here: DYNAMICK_CPU_LEVEL=none" in run_with("none", code + "except ValueError as error: print(error)")


@pytest.mark.parametrize("level", ["v9", "avx2"])
def test_a_level_that_is_none_is_refused(level: str) -> None:
    with pytest.raises(cpu.MissingKernelError, match=f"DYNAMICK_CPU_LEVEL={level}: this CPU runs"):
        cpu.load(level)


def test_a_library_that_is_missing_or_broken_is_said_in_one_line(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(cpu, "FOLDER", tmp_path)
    with pytest.raises(cpu.MissingKernelError, match=r"^[^\n]*cannot open shared object[^\n]*$"):
        cpu.load(None)
    (tmp_path / "build.txt").write_text("".join(f"{level}: no C++ compiler was found at install\n" for level in cpu.LEVELS))
    with pytest.raises(cpu.MissingKernelError, match=r"^[^\n]*no C\+\+ compiler was found at install[^\n]*$"):
        cpu.load(None)
    (tmp_path / "build.txt").write_text("".join(f"{level}: compiled by c++\n" for level in cpu.LEVELS))
    for level in cpu.LEVELS:
        (tmp_path / f"dynamic_k_{level}.so").write_text("no library")
    with pytest.raises(cpu.MissingKernelError, match=r"^[^\n]+$"):
        cpu.load(None)


@NO_KERNEL
def test_a_library_that_is_cut_off_is_passed_over_and_doctor_says_why(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    runs = [
        level for level in cpu.LEVELS if level in cpu.SUPPORTED.get(torch.backends.cpu.get_cpu_capability(), cpu.LEVELS[-1:])
    ]
    for level in runs:
        whole = (cpu.FOLDER / f"dynamic_k_{level}.so").read_bytes()
        cut = len(whole) // 2 if level == runs[0] else len(whole)
        (tmp_path / f"dynamic_k_{level}.so").write_bytes(whole[:cut])
    sizes = {level: (cpu.FOLDER / f"dynamic_k_{level}.so").stat().st_size for level in runs}
    (tmp_path / "build.txt").write_text("".join(f"{level}: compiled by c++, {size} bytes\n" for level, size in sizes.items()))
    monkeypatch.setattr(cpu, "FOLDER", tmp_path)
    if len(runs) == 1:
        with pytest.raises(cpu.MissingKernelError, match=r"^[^\n]*install again[^\n]*$"):
            cpu.load(None)
        return
    kernel = cpu.load(None)
    assert kernel.level == runs[1]
    monkeypatch.setattr(cpu, "kernel", kernel)
    assert any(line.startswith(f"{runs[0]}: ") and "install again" in line for line in doctor.findings())


def test_a_level_that_cannot_run_is_warned_of() -> None:
    code = "import warnings\nwith warnings.catch_warnings(record=True) as told:\n import dynamick.ops\n"
    assert "this CPU runs" in run_with("v9", code + "print(*(each.message for each in told))")
    assert run_with("none", code + "print(*(each.message for each in told))").strip() == ""


def test_doctor_prints_what_serves(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(argparse.Namespace())
    said = capsys.readouterr().out
    serves = f"cpu, level {cpu.kernel.level}" if cpu.kernel else "chunked"
    assert f"dynamic_linear on the CPU in float32: {serves}\n" in said
