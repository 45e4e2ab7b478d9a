"""The Dynamic-K linear map beside nn.Linear on the same tensors, on a CPU.

`random` weights are normal, and inputs are rectified normal numbers, half of them 0. `trained` weights are what training leaves
in this project's networks (docs/results/cifar10.md, miniplaces.md). A class keeps K positive weights, or 1 % where that is
more, as in the paper's Res18-d5. Weight decay has made the others 1e15 times smaller. Inputs are pooled, 7 % of them 0.
*chunked* is the PyTorch path, *naive* a topk over all products, and *compiled* a torch.compile of that.
"""

import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cost.measuring import in_turn
from benchmarks.cost.suite import Suite
from dynamick.functional import dynamic_linear
from dynamick.ops import cpu


@dataclass(frozen=True)
class Case:
    """Sizes, weights, and what is timed: a training step (forward and backward pass) or a forward pass alone."""

    M: int
    K: int
    weights: str = "random"
    rule: str = "at_most"
    training: bool = True
    B: int = 256
    O: int = 365
    level: str | None = None

    def __str__(self) -> str:
        what = ("step" if self.training else "forward") + (", exactly" if self.rule == "exactly" else "")
        return f"{what}, {self.O} x {self.M}, K = {self.K}, {self.weights}" + (f", level {self.level}" if self.level else "")


GRID = [Case(M, K, weights) for M in (512, 2048) for weights in ("random", "trained") for K in (5, 25, 100)]
LARGE = [Case(2048, 5, weights, O=21_841) for weights in ("random", "trained")]
CASES = [
    *GRID,
    *(Case(M, 5, weights, training=False) for M in (512, 2048) for weights in ("random", "trained")),
    *(Case(M, 5, weights, rule="exactly") for M in (512, 2048) for weights in ("random", "trained")),
    *(Case(M, 5, weights, level="v3") for M in (512, 2048) for weights in ("random", "trained")),
    *LARGE,
]
SLOW = ("chunked", "naive", "compiled")


def missing(case: Case) -> str | None:
    """Why there is no kernel of this level here, or None."""
    try:
        cpu.load(level(case))
    except cpu.MissingKernelError as error:
        return str(error)
    return None


def level(case: Case) -> str | None:
    """The instructions that the kernel may use; None takes the best."""
    return case.level or os.environ.get("DYNAMICK_CPU_LEVEL")


def ways(case: Case) -> tuple[str, ...]:
    """The slow ways are timed where they end within minutes."""
    plain = case.level is None and case.rule == "at_most" and case.training and case.O < 1000
    return ("nn.Linear", "kernel", *(SLOW if plain else ()))


def in_memory(case: Case, way: str) -> bool:
    """Whose memory is measured."""
    return case.level is None and case.rule == "at_most" and way != "chunked"


def tensors(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (B, M), weight (O, M), bias (O,) and the gradient of the outputs (B, O)."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x, w = normal(case.B, case.M), normal(case.O, case.M) / math.sqrt(case.M)
    if case.weights == "trained":
        x += 1.5
        kept = torch.rand(w.shape, generator=generator).topk(max(case.K, case.M // 100)).indices
        w = (1e-15 * w).scatter(1, kept, 0.2 + 0.4 * torch.rand(kept.shape, generator=generator))
    return x.relu(), w, normal(case.O), normal(case.B, case.O) / case.B


def function(case: Case, way: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """What is timed under this name: x, weight and bias to the outputs."""
    if way == "nn.Linear":
        return F.linear
    if way in ("kernel", "chunked"):
        return lambda x, w, b: dynamic_linear(x, w, b, case.K, case.rule, "cpu" if way == "kernel" else way)

    def naive(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return (x[:, None] * w).topk(case.K).values.relu().sum(-1) + b

    return torch.compile(naive, dynamic=False) if way == "compiled" else naive


def make(case: Case, way: str) -> Callable[[], None]:
    """A forward and a backward pass with gradients for x, weight and bias; or a forward pass."""
    cpu.kernel = cpu.load(level(case))
    x, w, b, gy = tensors(case)
    parameters, compute = [each.requires_grad_(case.training) for each in (x, w, b)], function(case, way)

    def run() -> None:
        with torch.set_grad_enabled(case.training):
            y = compute(x, w, b)
        if case.training:
            torch.autograd.grad(y, parameters, gy)

    return run


def check(case: Case) -> None:
    """Some rows and classes of the case's own tensors, against the reference."""
    cpu.kernel = cpu.load(level(case))
    x, w, b, gy = tensors(replace(case, O=min(case.O, 365)))
    x, w, b, gy = x[:20], w[::73].contiguous(), b[::73], gy[:20, ::73]
    results = []
    for implementation in ("cpu", "reference"):
        leaves = [each.clone().requires_grad_() for each in (x, w, b)]
        y = dynamic_linear(leaves[0], leaves[1], leaves[2], case.K, case.rule, implementation)
        results.append([y, *torch.autograd.grad(y, leaves, gy)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def notes(case: Case, way: str, seconds: dict[str, float], result: Any) -> str:
    """The level that ran, and the time below which no kernel comes here."""
    if way != "kernel":
        return ""
    found = cpu.load(level(case))
    return f"level {found.level}, limit {1000 * limit(case, seconds['nn.Linear']):.2f} ms"


def limit(case: Case, linear: float) -> float:
    """Seconds to move the least bytes there are once, or to form the routed products at nn.Linear's speed, if that is more."""
    tensors_moved = (case.B + case.O) * case.M * (3 if case.training else 1) + case.B * case.O * (2 if case.training else 1)
    source = torch.ones(tensors_moved // 2)
    target = torch.empty_like(source)  # half of the bytes are read and half written
    moved = statistics.median(in_turn({"move": lambda: target.copy_(source)}, 20)["move"])
    return max(moved, linear * min(case.K, case.M) / case.M)


SUITE = Suite(
    about="the linear map beside nn.Linear, on a CPU",
    cases=CASES,
    ways=ways,
    make=make,
    check=check,
    once=frozenset(SLOW),
    memory_steps=3,
    memory_processes=3,
    memory=in_memory,
    small=lambda case: replace(case, B=16, O=2, M=128),
    notes=notes,
    pairs=40,
    missing=missing,
)
