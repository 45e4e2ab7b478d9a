"""What routing by agreement costs beside Dynamic-K and dense heads of equal size: seconds of a training step, peak memory.

python benchmarks/routing_cost.py [--images 50000] [--table] [--out FILE.json]; prints ratios to the dense head and the machine.

Three comparisons, in each of which all heads have equally many weights on the same inputs. `heads`: the head alone, 10 classes
on 1024 features. `heads-365`: 365 classes on 512 features, the sizes of Places365 and a ResNet-18. `networks`: whole training
steps of one body (`dynamick.models.CapsNet`'s) with each of the heads, at the size of the scenes recipe. Steps of all rivals
alternate in one run. Inputs and weights are random.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pairs import machine
from torch import nn

import dynamick as dk
from dynamick.nn import RoutingCapsules
from dynamick.nn.capsules import ROUTINGS

BATCH, POSE, K = 64, 8, 5
SIDE, WIDTH, STEM = 64, 16, "patch"
HEADS = ("dense", f"dynamic-{K}", *(f"routing-{each}" for each in ROUTINGS))
SIZES = {"heads": (128, 10), "heads-365": (64, 365), "networks": (32, 10)}
"""Capsules that come in, and classes."""


def main() -> None:
    """Time all comparisons and measure each rival's memory in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="timed steps of each rival (default %(default)s)")
    parser.add_argument("--images", type=int, default=10_000, help="images of an epoch (default %(default)s)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", action="store_true", help="print the tables of docs/results/routing.md instead of JSON")
    parser.add_argument("--memory-of", nargs=2, metavar=("COMPARISON", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(peak_growth(*args.memory_of))
        return
    check_routing()
    result: dict[str, Any] = {name: compare(name, args.rounds, args.images) for name in SIZES}
    result |= {"batch": BATCH, "rounds": args.rounds, "machine": machine()}
    print(table(result) if args.table else json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """Markdown, a table a comparison."""
    lines = []
    for comparison in SIZES:
        lines += [
            f"**{comparison}**",
            "",
            "| head | parameters | a step, ms | an epoch, s | times dense (quartiles) | peak memory, MiB |",
        ]
        lines += ["|---" * 6 + "|"]
        for name, row in result[comparison].items():
            low, high = row["time_ratio_quartiles"]
            ratio = f"{row['time_ratio']:.2f} ({low:.2f} to {high:.2f})" if name != HEADS[0] else "1"
            cells = [
                f"{row['parameters']:,}",
                f"{row['step_ms']:.1f}",
                f"{row['epoch_s']:.1f}",
                ratio,
                f"{row['peak_mib']:.0f}",
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def check_routing() -> None:
    """Refuse to time what is wrong: coupling adds up to 1, and one iteration of each is a plain mean or sum."""
    x = torch.randn(3, 6, POSE)
    for routing in ROUTINGS:
        layer = RoutingCapsules(6, POSE, 10, POSE, routing, iterations=1)
        votes, found = layer.votes(x), layer(x)
        mean = votes.sum(2) / 10 if routing == "dynamic" else votes.mean(2)
        length = mean.norm(dim=-1, keepdim=True)
        want = mean * length / (1 + length**2) if routing == "dynamic" else mean
        torch.testing.assert_close(found.poses, want, rtol=1e-4, atol=1e-5)
        over = 2 if routing == "simplified" else 1
        torch.testing.assert_close(found.coupling.sum(over), torch.ones_like(found.coupling.sum(over)))


def compare(comparison: str, rounds: int, images: int) -> dict[str, Any]:
    """Seconds of a step and of an epoch, memory and parameters of each head, and the ratios to the first one."""
    steps = {name: stepper(comparison, name) for name in HEADS}
    for step, _ in steps.values():
        for _ in range(3):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in HEADS}
    for turn in range(rounds):
        # Who goes first changes every round, so that none always runs on warmer caches.
        for place in range(len(HEADS)):
            name = HEADS[(place + turn) % len(HEADS)]
            began = time.perf_counter()
            steps[name][0]()
            seconds[name].append(time.perf_counter() - began)
    rows, first = {}, HEADS[0]
    memory = {name: memory_of(comparison, name) for name in HEADS}
    for name in HEADS:
        ratios = [mine / base for mine, base in zip(seconds[name], seconds[first], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        median = statistics.median(seconds[name])
        rows[name] = {
            "parameters": steps[name][1],
            "step_ms": round(1000 * median, 3),
            "epoch_s": round(median * images / BATCH, 2),
            "time_ratio": round(quartiles[1], 3),
            "time_ratio_quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
            "peak_mib": round(memory[name] / 2**20, 1),
        }
    return rows


def stepper(comparison: str, name: str) -> tuple[Callable[[], None], int]:
    """A function that takes one training step, and how many parameters it trains."""
    torch.manual_seed(0)
    capsules, classes = SIZES[comparison]
    model, inputs = head(name, capsules, classes), torch.randn(BATCH, capsules * POSE)
    if comparison == "networks":
        network = dk.models.CapsNet(classes, STEM, WIDTH).train()
        assert network.fc.in_features == capsules * POSE
        network.fc = model
        model, inputs = network, torch.randn(BATCH, 3, SIDE, SIDE)
    labels = torch.randint(0, classes, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, sum(each.numel() for each in model.parameters())


def head(name: str, capsules: int, classes: int) -> Any:
    """A head on capsules * POSE numbers with capsules * POSE * classes * POSE weights (EM: two more a class)."""
    M, O = capsules * POSE, classes * POSE
    if name.startswith("routing-"):
        return _Capsules(capsules, POSE, classes, POSE, name.removeprefix("routing-"))
    linear = nn.Linear(M, O, bias=False) if name == "dense" else dk.DynamicLinear(M, O, K, bias=False)
    # POSE outputs a class, of which the mean is the logit, give a plain head as many weights as capsules have.
    return nn.Sequential(linear, nn.Unflatten(1, (classes, POSE)), _Mean())


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1)


class _Capsules(RoutingCapsules):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x.unflatten(1, (self.in_capsules, POSE))).log_odds


def memory_of(comparison: str, name: str) -> int:
    """The growth of a fresh process's peak memory by training steps, in bytes."""
    command = [sys.executable, __file__, "--memory-of", comparison, name]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_growth(comparison: str, name: str) -> int:
    """In this process: the peak of resident memory during three steps, less what was resident before."""
    # What PyTorch loads on first use is there before it counts.
    warm = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), dk.DynamicLinear(4 * 6 * 6, 2), nn.Linear(2, 2))
    F.cross_entropy(warm(torch.randn(2, 3, 8, 8)), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]
    torch.optim.SGD(warm.parameters(), lr=0.1).step()
    dk.models.create("res8", width=1)
    # Writing 5 there starts the peak (VmHWM) anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step, _ = stepper(comparison, name)
    for _ in range(3):
        step()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
