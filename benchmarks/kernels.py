"""What the Dynamic-K linear map costs beside nn.Linear on the same tensors, in time and memory, on a CPU.

python benchmarks/kernels.py [--pairs N] [--quick] [--parts NAME ...] [--out FILE.json]

Each row alternates the kernel and nn.Linear in one process; its ratio is the median of the pairs' ratios, with a 95 %
interval. `random` weights are normal, and inputs rectified normal numbers, half of them 0. `trained` weights are what training
leaves in this project's networks (docs/results/cifar10.md, miniplaces.md): a class keeps K positive weights, or 1 % where that
is more, as in the paper's Res18-d5; weight decay has made the others 1e15 times smaller; inputs are pooled, 7 % of them 0.
Before a row is timed, its outputs and gradients on some rows and classes are held to the reference. Memory is the peak that a
process of its own adds for three steps; for all but the kernel that process does no more. *chunked* is the PyTorch path,
*naive* a topk over all products, and *compiled* a torch.compile of that. Run it where nothing else runs.
"""

import argparse
import json
import math
import multiprocessing
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pairs import in_turn, interval, machine, peak, ratios
from torch import Tensor

from dynamick.functional import dynamic_linear
from dynamick.ops import cpu


@dataclass(frozen=True)
class Case:
    """One row: sizes, weights, and what is timed: a training step (forward and backward) or a forward pass alone."""

    M: int
    K: int
    weights: str = "random"
    rule: str = "at_most"
    training: bool = True
    B: int = 256
    O: int = 365
    level: str | None = None


GRID = [Case(M, K, weights) for M in (512, 2048) for weights in ("random", "trained") for K in (5, 25, 100)]
INFERENCE = [Case(M, 5, weights, training=False) for M in (512, 2048) for weights in ("random", "trained")]
EXACTLY = [Case(M, 5, weights, rule="exactly") for M in (512, 2048) for weights in ("random", "trained")]
AVX2 = [Case(M, 5, weights, level="v3") for M in (512, 2048) for weights in ("random", "trained")]
LARGE = [Case(2048, 5, weights, O=21_841) for weights in ("random", "trained")]
PARTS = {
    "512": [case for case in GRID if case.M == 512],
    "2048": [case for case in GRID if case.M == 2048],
    "inference": INFERENCE,
    "exactly": EXACTLY,
    "avx2": AVX2,
    "large": LARGE,
}
PROCESSES = 3
"""In which memory is measured: where the allocator finds room differs by a tenth and more between them."""
SLOW = ("chunked", "naive", "compiled")


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40, help="pairs a row; rows of 21,841 classes take a tenth")
    parser.add_argument("--quick", action="store_true", help="K = 5 and 365 classes only, without memory and slow peers")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="which rows of the table; all")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if cpu.kernel is None:
        parser.error("there is no CPU kernel here; `dynamick doctor` says why")
    cases = [case for part in args.parts for case in PARTS[part]]
    if args.quick:
        cases = [case for case in cases if case in GRID + INFERENCE and case.K == 5]
    usable = [case for case in cases if case.level is None or runs(case.level)]
    columns = [
        "what",
        "O",
        "M",
        "K",
        "weights",
        "level",
        "limit, ms",
        "nn.Linear, ms",
        "kernel, ms",
        "ratio",
        "95 %",
        "memory",
        *SLOW,
    ]
    print(f"| {' | '.join([*columns, 'naive, memory', 'compiled, memory'])} |")
    print("|---" * (len(columns) + 2) + "|")
    found = []
    for case in usable:
        found.append(measure(case, args.pairs if case.O < 1000 else max(4, args.pairs // 10), peers=not args.quick))
        print(row(found[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")


def runs(level: str) -> bool:
    """Whether a level's library can be loaded here."""
    try:
        cpu.load(level)
    except cpu.MissingKernelError:
        return False
    return True


def row(found: dict[str, Any]) -> str:
    """A row of the table."""
    case = found["case"]
    what = ("step" if case["training"] else "forward") + (", exactly" if case["rule"] == "exactly" else "")
    cells = [what, case["O"], case["M"], case["K"], case["weights"], found["level"]]
    cells += [f"{1000 * seconds:.2f}" for seconds in (found["limit"], *found["seconds"].values())]
    cells += [f"{found['ratio']:.2f}", "{:.2f} to {:.2f}".format(*found["interval"])]
    rest = ["memory_ratio", *(f"{name}_ratio" for name in SLOW), "naive_memory_ratio", "compiled_memory_ratio"]
    cells += [f"{found[name]:.{2 if name == 'memory_ratio' else 0}f}" if name in found else "" for name in rest]
    return "| " + " | ".join(map(str, cells)) + " |"


def measure(case: Case, pairs: int, peers: bool) -> dict[str, Any]:
    """Time a row after its results were held to the reference."""
    before = cpu.kernel
    try:
        cpu.kernel = cpu.load(case.level or os.environ.get("DYNAMICK_CPU_LEVEL"))
        level = cpu.kernel.level
        check(case)
        steps = {"nn.Linear": step("nn.Linear", case), "kernel": step("kernel", case)}
        seconds = in_turn(steps, pairs, warm=min(3, pairs))
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        found: dict[str, Any] = {"case": asdict(case), "level": level, "seconds": medians, "pairs": pairs}
        against = ratios(seconds, "kernel")
        found["ratio"], found["interval"] = statistics.median(against), interval(against)
        found["needed"] = needed(case)
        found["limit"] = limit(found["needed"], medians["nn.Linear"], pairs)
        if peers and case.level is None and case.rule == "at_most":
            linear = memory("nn.Linear", case)
            found["memory_ratio"] = memory("kernel", case) / linear
            if case.O < 1000 and case.training:
                for name in SLOW:
                    slow = in_turn({name: step(name, case)}, 1, warm=1)
                    found[f"{name}_ratio"] = slow[name][0] / medians["nn.Linear"]
                for name in ("naive", "compiled"):
                    found[f"{name}_memory_ratio"] = memory(name, case, processes=1) / linear
    finally:
        cpu.kernel = before
    return found


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


def step(name: str, case: Case) -> Callable[[], None]:
    """A training step's forward and backward pass, with gradients for x, weight and bias; or a forward pass."""
    x, w, b, gy = tensors(case)
    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    if name == "nn.Linear":
        function = F.linear
    elif name in ("naive", "compiled"):

        def naive(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return (x[:, None] * w).topk(case.K).values.relu().sum(-1) + b

        function = torch.compile(naive, dynamic=False) if name == "compiled" else naive
    else:

        def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            return dynamic_linear(x, w, b, case.K, case.rule, "cpu" if name == "kernel" else name)

    parameters = [each.requires_grad_(case.training) for each in (x, w, b)]

    def run() -> None:
        with torch.set_grad_enabled(case.training):
            y = function(x, w, b)
        if case.training:
            torch.autograd.grad(y, parameters, gy)

    return run


def check(case: Case) -> None:
    """Refuse to time what is wrong: some rows and classes of the row's own tensors, against the reference.

    Raises:
        AssertionError: they differ.
    """
    x, w, b, gy = tensors(replace(case, O=min(case.O, 365)))
    x, w, b, gy = x[:20], w[::73].contiguous(), b[::73], gy[:20, ::73]
    results = []
    for implementation in ("cpu", "reference"):
        leaves = [each.clone().requires_grad_() for each in (x, w, b)]
        y = dynamic_linear(leaves[0], leaves[1], leaves[2], case.K, case.rule, implementation)
        results.append([y, *torch.autograd.grad(y, leaves, gy)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def needed(case: Case) -> dict[str, int]:
    """The least there is to do: bytes to move once (inputs, weights, outputs, gradients), and routed products to form."""
    passes = 3 if case.training else 1
    tensors_moved = (case.B * case.M + case.O * case.M) * (3 if case.training else 1) + case.B * case.O * (
        2 if case.training else 1
    )
    products = case.B * case.O * min(case.K, case.M) * passes
    return {"bytes": 4 * tensors_moved, "multiplications": products, "dense_multiplications": case.B * case.O * case.M * passes}


def limit(least: dict[str, int], linear: float, pairs: int) -> float:
    """Seconds below which no kernel comes here: those of moving its bytes, or of its products at nn.Linear's speed, if more."""
    source = torch.ones(least["bytes"] // 8)
    target = torch.empty_like(source)  # half of the bytes are read and half written

    def move() -> None:
        target.copy_(source)

    moved = statistics.median(in_turn({"move": move}, pairs)["move"])
    return max(moved, linear * least["multiplications"] / least["dense_multiplications"])


def memory(name: str, case: Case, processes: int = PROCESSES) -> float:
    """Bytes that three steps, with their tensors, add to the peak of a process of their own; the median of some."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return statistics.median(pool.apply(_added_memory, (name, case)) for _ in range(processes))


def _added_memory(name: str, case: Case) -> int:
    step(name, replace(case, B=16, O=2, M=128))()
    before = peak()
    run = step(name, case)
    for _ in range(3):
        run()
    return max(1, peak() - before)


if __name__ == "__main__":
    main()
