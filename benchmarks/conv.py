"""What a Dynamic-K convolution costs beside nn.Conv2d at the shapes of a ResNet, in time and memory, on a CPU.

python benchmarks/conv.py [--pairs N] [--batch N] [--out FILE.json]

Each row alternates a training step's forward and backward pass of both in one process; its ratio is the median of the pairs'
ratios, with a 95 % interval. Inputs are rectified normal numbers, weights PyTorch's initial ones. `naive` is what one would
write: all products of a batch, topk, autograd; its convolutions are one batched matrix product, the fastest form that was
found. Before a row is timed, its outputs and gradients are held to the naive form's (map routing to the sum of the channels
voted for). Memory is the peak that a process of its own adds for two steps. Run it where nothing else runs.
"""

import argparse
import json
import multiprocessing
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pairs import in_turn, interval, machine, peak, ratios
from torch import Tensor

from dynamick.functional import dynamic_conv2d


@dataclass(frozen=True)
class Case:
    """One row: channels in and out, the side of the square inputs, and how it is routed."""

    C: int
    O: int
    side: int
    kernel: int
    routing: str = "location"
    last: bool = False
    K: int = 5
    stride: int = 1


CASES = [
    Case(256, 64, 56, 1),
    Case(256, 64, 56, 1, last=True),
    Case(512, 2048, 7, 1, last=True),
    Case(64, 64, 56, 3),
    Case(64, 64, 56, 3, last=True),
    Case(64, 64, 56, 3, "map"),
    Case(256, 256, 14, 3),
    Case(256, 256, 14, 3, "map"),
    Case(512, 512, 7, 3),
    Case(512, 512, 7, 3, "map"),
]


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    print("| kernel | channels | side | routing | layout | nn.Conv2d, ms | ours, ms | ratio | 95 % | naive, ms ", end="")
    print("| nn.Conv2d, MB | ours, MB | naive, MB |")
    print("|---" * 13 + "|")
    found = []
    for case in CASES:
        found.append(measure(case, args.batch, args.pairs))
        print(row(found[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "batch": args.batch, "rows": found}, indent=1) + "\n")


def row(found: dict[str, Any]) -> str:
    """A row of the table."""
    case, seconds, memory = found["case"], found["seconds"], found["memory"]
    cells = [f"{case['kernel']}x{case['kernel']}", f"{case['C']} to {case['O']}", case["side"], case["routing"]]
    cells += ["channels-last" if case["last"] else "contiguous"]
    cells += [f"{1000 * seconds[name]:.1f}" for name in ("nn.Conv2d", "ours")]
    cells += [f"{found['ratio']:.1f}", "{:.1f} to {:.1f}".format(*found["interval"]), f"{1000 * seconds['naive']:.0f}"]
    cells += [f"{memory[name] / 2**20:.0f}" for name in ("nn.Conv2d", "ours", "naive")]
    return "| " + " | ".join(map(str, cells)) + " |"


def measure(case: Case, batch: int, pairs: int) -> dict[str, Any]:
    """Time a row after its results were held to the naive form's."""
    check(case, batch)
    seconds = in_turn({name: step(name, case, batch) for name in ("nn.Conv2d", "ours")}, pairs, warm=1)
    against = ratios(seconds, "ours")
    seconds |= in_turn({"naive": step("naive", case, batch)}, 1, warm=1)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    memory = {name: added_memory(name, case, batch) for name in ("nn.Conv2d", "ours", "naive")}
    found = {"case": asdict(case), "pairs": pairs, "seconds": medians, "memory": memory}
    return found | {"ratio": statistics.median(against), "interval": interval(against)}


def tensors(case: Case, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, weight, and the gradient of the outputs."""
    torch.manual_seed(0)
    x = torch.randn(batch, case.C, case.side, case.side).relu()
    weight = torch.nn.Conv2d(case.C, case.O, case.kernel).weight.detach()
    side = -(-case.side // case.stride)
    gy = torch.randn(batch, case.O, side, side) / batch
    layout = torch.channels_last if case.last else torch.contiguous_format
    return x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout), gy.contiguous(memory_format=layout)


def function(name: str, case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """What is timed under this name."""
    stride, padding = case.stride, case.kernel // 2
    if name == "nn.Conv2d":
        return lambda x, w: F.conv2d(x, w, None, stride, padding)
    if name == "ours":
        return lambda x, w: dynamic_conv2d(x, w, None, stride, padding, k=case.K, routing=case.routing)
    return lambda x, w: naive(x, w, case)


def naive(x: Tensor, weight: Tensor, case: Case) -> Tensor:
    """All products at once, then the K largest positive ones of each location, or of each map."""
    patches = F.unfold(x, case.kernel, padding=case.kernel // 2, stride=case.stride)
    patches = patches.unflatten(1, (case.C, -1))
    p_BOCL = torch.einsum("oct,bctl->bocl", weight.flatten(2), patches)
    if case.routing == "location":
        y = p_BOCL.topk(min(case.K, case.C), dim=2).values.relu().sum(2)
    else:
        votes = p_BOCL.detach().relu().sum(-1).topk(min(case.K, case.C), dim=2)
        chosen = votes.indices[..., None].expand(*votes.indices.shape, p_BOCL.shape[-1])
        y = p_BOCL.gather(2, chosen).mul(votes.values[..., None] > 0).sum(2)
    return y.unflatten(-1, (-(-case.side // case.stride), -1))


def step(name: str, case: Case, batch: int) -> Callable[[], None]:
    """A forward and a backward pass, with gradients for inputs and weight."""
    x, weight, gy = tensors(case, batch)
    forward, leaves = function(name, case), (x.requires_grad_(), weight.requires_grad_())

    def run() -> None:
        torch.autograd.grad(forward(*leaves), leaves, gy)

    return run


def check(case: Case, batch: int) -> None:
    """Refuse to time what is wrong.

    Raises:
        AssertionError: the outputs or gradients are not the naive form's.
    """
    x, weight, gy = tensors(case, batch)
    results = []
    for name in ("ours", "naive"):
        leaves = (x.clone().requires_grad_(), weight.clone().requires_grad_())
        y = function(name, case)(*leaves)
        results.append((y, *torch.autograd.grad(y, leaves, gy)))
    for ours, theirs in zip(*results, strict=True):
        # Where two products differ by their rounding only, one or the other may be routed (docs/definitions.md, "Dynamic-K").
        wrong = ~torch.isclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.detach().abs().max()))
        assert float(wrong.float().mean()) < 1e-3


def added_memory(name: str, case: Case, batch: int) -> int:
    """Bytes that two steps, with their tensors, add to the peak of a process of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_added_memory, (name, case, batch))


def _added_memory(name: str, case: Case, batch: int) -> int:
    step(name, Case(8, 8, 6, case.kernel, case.routing, case.last), 1)()
    before = peak()
    run = step(name, case, batch)
    for _ in range(2):
        run()
    return max(1, peak() - before)


if __name__ == "__main__":
    main()
