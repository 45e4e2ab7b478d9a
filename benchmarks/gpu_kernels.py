"""What the Triton kernel costs beside nn.Linear and beside the naive topk, forward and backward pass, on a CUDA GPU.

python benchmarks/gpu_kernels.py [--pairs N] [--out FILE.json]

The cases, weights and checks are those of kernels.py: a row is timed only after its outputs and gradients agree with the
PyTorch path's on the same GPU. All steps of a row alternate in one process, each with a synchronisation before and after.
float32 is computed without TF32 by all. Memory is the peak that a step adds to what its tensors take.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from kernels import GRID, LARGE, Case, tensors
from pairs import in_turn, interval, machine, ratios

from dynamick.functional import dynamic_linear

DTYPES = (torch.float32, torch.bfloat16)
NAIVE_AT_MOST = 4e9
"""The naive form is left out where its B*O*M products are more: it would need some five times 4 bytes for each."""


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device here; run it on a machine that has one")
    found = []
    print("| O | M | K | weights | dtype | nn.Linear, ms | kernel, ms | ratio | 95 % | naive / kernel | memory ratio |")
    print("|---" * 11 + "|")
    for case in [*GRID, *LARGE]:
        for dtype in DTYPES:
            found.append(measure(case, dtype, args.pairs))
            print(row(found[-1]), flush=True)
    about = {**machine(), "device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    print(json.dumps(about), file=sys.stderr)
    if args.out:
        args.out.write_text(json.dumps({"machine": about, "rows": found}, indent=1) + "\n")


def row(found: dict[str, Any]) -> str:
    """A row of the table."""
    case, ms = found["case"], {name: 1000 * each for name, each in found["seconds"].items()}
    cells = [case["O"], case["M"], case["K"], case["weights"], found["dtype"]]
    cells += [
        f"{ms['nn.Linear']:.3f}",
        f"{ms['kernel']:.3f}",
        f"{found['ratio']:.2f}",
        "{:.2f} to {:.2f}".format(*found["interval"]),
    ]
    cells += [f"{ms['naive'] / ms['kernel']:.1f}" if "naive" in ms else "", f"{found['memory_ratio']:.2f}"]
    return "| " + " | ".join(map(str, cells)) + " |"


def measure(case: Case, dtype: torch.dtype, pairs: int) -> dict[str, Any]:
    """Time a row after its results were held to the PyTorch path's."""
    check(case, dtype)
    names = ["nn.Linear", "kernel"] + (["naive"] if case.B * case.O * case.M <= NAIVE_AT_MOST else [])
    steps = {name: step(name, case, dtype) for name in names}
    seconds = in_turn(steps, pairs)
    against = ratios(seconds, "kernel")
    return {
        "case": asdict(case),
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": {name: statistics.median(each) for name, each in seconds.items()},
        "ratio": statistics.median(against),
        "interval": interval(against),
        "memory_ratio": memory(steps["kernel"]) / memory(steps["nn.Linear"]),
    }


def function(name: str, case: Case) -> Callable[..., torch.Tensor]:
    """x (B, M), weight (O, M) and bias (O,) to outputs (B, O)."""
    if name == "nn.Linear":
        return torch.nn.functional.linear
    if name == "naive":
        return lambda x, w, b: (x[:, None] * w).topk(min(case.K, case.M)).values.clamp(min=0).sum(-1) + b
    implementation = {"kernel": "triton", "PyTorch": "chunked"}[name]
    return lambda x, w, b: dynamic_linear(x, w, b, case.K, case.rule, implementation)


def on_device(case: Case, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    """x, weight and bias, which ask for gradients, and the gradient of the outputs."""
    *leaves, gy = (each.to("cuda", dtype) for each in tensors(case))
    return [each.requires_grad_() for each in leaves], gy


def step(name: str, case: Case, dtype: torch.dtype) -> Callable[[], None]:
    """A forward and backward pass with gradients of inputs, weights and bias, to its end on the GPU."""
    leaves, gy = on_device(case, dtype)
    compute = function(name, case)

    def run() -> None:
        torch.cuda.synchronize()
        torch.autograd.grad(compute(*leaves), leaves, gy)
        torch.cuda.synchronize()

    return run


def check(case: Case, dtype: torch.dtype) -> None:
    """Refuse to time what is wrong."""
    results = []
    for name in ("kernel", "PyTorch"):
        leaves, gy = on_device(case, dtype)
        y = function(name, case)(*leaves)
        results.append([y, *torch.autograd.grad(y, leaves, gy)])
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (2e-2, 2e-2)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def memory(run: Callable[[], None]) -> int:
    """Bytes that a step adds to what is allocated already, at its peak."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return max(1, torch.cuda.max_memory_allocated() - before)


if __name__ == "__main__":
    main()
