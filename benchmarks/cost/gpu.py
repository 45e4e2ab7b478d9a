"""The Triton kernel beside nn.Linear and beside the naive topk, forward and backward pass, on a CUDA GPU.

Cases and weights are those of `linear`. Outputs and gradients must agree with the PyTorch path's on the same GPU. A step
synchronises before and after. float32 is computed without TF32 by all. Memory is what a step adds to its tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.cost import linear
from benchmarks.cost.suite import Suite
from dynamick.functional import dynamic_linear

NAIVE_AT_MOST = 4e9
"""The naive form is left out where its B*O*M products are more: it would need some five times 4 bytes for each."""


@dataclass(frozen=True)
class Case:
    """A case of `linear` in a type of number."""

    of: linear.Case
    dtype: str

    def __str__(self) -> str:
        return f"{self.of}, {self.dtype}"


def missing(case: Case) -> str | None:
    """Why it cannot run here."""
    return None if torch.cuda.is_available() else "PyTorch finds no CUDA device here"


def ways(case: Case) -> tuple[str, ...]:
    """The naive form where it fits into memory."""
    size = case.of.B * case.of.O * case.of.M
    return ("nn.Linear", "kernel", *(("naive",) if size <= NAIVE_AT_MOST else ()))


def function(case: linear.Case, way: str) -> Callable[..., torch.Tensor]:
    """x (B, M), weight (O, M) and bias (O,) to outputs (B, O)."""
    if way == "nn.Linear":
        return torch.nn.functional.linear
    if way == "naive":
        return lambda x, w, b: (x[:, None] * w).topk(min(case.K, case.M)).values.clamp(min=0).sum(-1) + b
    implementation = {"kernel": "triton", "PyTorch": "chunked"}[way]
    return lambda x, w, b: dynamic_linear(x, w, b, case.K, case.rule, implementation)


def on_device(case: Case) -> tuple[list[torch.Tensor], torch.Tensor]:
    """x, weight and bias, which ask for gradients, and the gradient of the outputs."""
    *leaves, gy = (each.to("cuda", getattr(torch, case.dtype)) for each in linear.tensors(case.of))
    return [each.requires_grad_() for each in leaves], gy


def make(case: Case, way: str) -> Callable[[], None]:
    """A forward and backward pass with gradients of inputs, weights and bias, to its end on the GPU."""
    leaves, gy = on_device(case)
    compute = function(case.of, way)

    def run() -> None:
        torch.cuda.synchronize()
        torch.autograd.grad(compute(*leaves), leaves, gy)
        torch.cuda.synchronize()

    return run


def check(case: Case) -> None:
    """The kernel's outputs and gradients are the PyTorch path's."""
    results = []
    for way in ("kernel", "PyTorch"):
        leaves, gy = on_device(case)
        y = function(case.of, way)(*leaves)
        results.append([y, *torch.autograd.grad(y, leaves, gy)])
    rtol, atol = (1e-4, 1e-5) if case.dtype == "float32" else (2e-2, 2e-2)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def added(run: Callable[[], None]) -> int:
    """Bytes that a step adds to what is allocated already, at its peak."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return max(1, torch.cuda.max_memory_allocated() - before)


SUITE = Suite(
    about="the linear map beside nn.Linear, on a CUDA GPU",
    cases=[Case(case, dtype) for case in (*linear.GRID, *linear.LARGE) for dtype in ("float32", "bfloat16")],
    ways=ways,
    make=make,
    check=check,
    added=added,
    pairs=40,
    warm=5,
    missing=missing,
)
