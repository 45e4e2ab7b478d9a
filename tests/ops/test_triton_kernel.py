"""The Triton kernel: its cases (triton_cases.py) run in the interpreter here, and on a GPU where there is one."""

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).with_name("triton_cases.py")


def why_not() -> str | None:
    """Why Triton cannot be used here, whatever the device."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    version = importlib.metadata.version("triton")
    return f"triton {version} is too old" if tuple(map(int, version.split(".")[:2])) < (3, 3) else None


INSTALLED = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], env={**os.environ, **environment}, capture_output=True, text=True)


@INSTALLED
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cases_in_the_interpreter() -> None:
    ran = run("-m", "pytest", "-q", "-p", "no:cacheprovider", CASES, TRITON_INTERPRET="1")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@INSTALLED
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_cases_on_a_gpu() -> None:
    ran = run("-m", "pytest", "-q", "-p", "no:cacheprovider", CASES, TRITON_INTERPRET="0")
    assert ran.returncode == 0, ran.stdout + ran.stderr


@INSTALLED
def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """Down to machine code, which needs no GPU. The interpreter accepts what the compiler does not."""
    code = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dynamick.ops.gpu import kernels

def compile(capability, kernel, types, constants):
    types = dict(zip(kernel.arg_names, types)) | dict.fromkeys(constants, "constexpr")
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    target = GPUTarget("cuda", capability, 32)
    code = triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm
    assert code["cubin"]
    # Subnormal products count, and every product is rounded before it is compared.
    assert ".ftz" not in code["ptx"] and "fma.rn.f32" not in code["ptx"]

bare = {"mask_MO": None}
few = ((80, 1, True, "*fp32", {}), (90, 16, False, "*bf16", bare))
many = ((80, 17, True, "*fp16", bare), (90, 17, False, "*fp32", {}))
for capability, k, exactly, x, mask in few + many:
    blocks = {"BLOCK_B": 32, "BLOCK_O": 32, "K": k, "EXACTLY": exactly, **mask}
    compile(capability, kernels.forward_kernel, [x, x, "*u8", "*fp32", "*fp32", "*i32", "i32", "i32", "i32"], blocks)
for capability, exactly, x, mask in ((80, True, "*bf16", {}), (90, False, "*fp32", {"mask": None})):
    types = [x, x, "*u8", "*fp32", "*fp32", "*i32", x, *["i32"] * 7]
    compile(capability, kernels.backward_kernel, types, {"BLOCK_R": 32, "BLOCK_M": 64, "EXACTLY": exactly, **mask})
"""
    ran = run("-c", code, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert ran.returncode == 0, ran.stderr


def test_no_process_imports_triton_before_it_is_needed() -> None:
    ran = run("-c", "import sys, dynamick, dynamick.functional; print('triton' in sys.modules)", TRITON_INTERPRET="1")
    assert ran.stdout.strip() == "False", ran.stderr


def test_where_it_cannot_run_it_says_why() -> None:
    code = """
import torch
from dynamick import functional
from dynamick.cli import doctor
x = torch.ones(1, 1)
try:
    functional.dynamic_linear(x, x, implementation="triton")
except ValueError as error:
    print(error)
print(*doctor.findings(), sep="\\n")
"""
    said = run("-c", code, TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="").stdout.splitlines()
    missing = why_not() or "there is no CUDA device"
    assert said[0].startswith(f"implementation 'triton' cannot run here: {missing}")
    assert any(line.startswith(f"triton: cannot run here: {missing}") for line in said[1:])
