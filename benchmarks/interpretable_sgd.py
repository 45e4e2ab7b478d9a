"""What Interpretable SGD costs beside SGD: steps in alternating pairs, of heads alone and of the small CIFAR-10 network.

python benchmarks/interpretable_sgd.py [--pairs 20] [--out FILE.json]; prints milliseconds, ratios and the machine. Random
numbers: the cost does not depend on them.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pairs import in_turn, machine, ratios
from torch import nn

import dynamick as dk

SIZES = {"CIFAR-10, 10 classes on 512": (128, 10, 512), "Places365, 365 classes on 512": (256, 365, 512)}
KINDS: dict[str, dict[str, Any]] = {
    "SGD": {},
    "s = 0.9": {"s": 0.9},
    "s = 0.9, votes": {"s": 0.9, "estimate": "votes"},
    "s = 1": {"s": 1.0},
    "s = 0.9, literal": {"s": 0.9, "form": "literal"},
}


def main() -> None:
    """Time all pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    check()
    found = {name: compare({kind: head_step(*size, kind) for kind in KINDS}, args.pairs) for name, size in SIZES.items()}
    network = {kind: network_step(kind) for kind in ("SGD", "s = 0.9")}
    found["the small CIFAR-10 network, 128 images"] = compare(network, args.pairs)
    result = {"milliseconds": found, "machine": machine()}
    print("| step of | optimiser | ms | ratio |\n|---|---|---|---|")
    for name, rows in found.items():
        for kind, row in rows.items():
            print(f"| {name} | {kind} | {row['ms']:.2f} | {row['ratio']:.2f} |")
    print(json.dumps(result["machine"]))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def check() -> None:
    """Refuse to time what is wrong: where all is drawn, the gradient is the dense one."""
    gy, x, weight = torch.randn(8, 4), torch.rand(8, 6), torch.randn(4, 6)
    found = dk.optim.interpretable_gradient(gy, x, weight, x @ weight.T, 0.9, block_size=6)
    torch.testing.assert_close(found, gy.T @ x)


def optimizer_of(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    """SGD with momentum, or Interpretable SGD on the head's weight."""
    if kind == "SGD":
        return torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    groups = dk.optim.sampled_groups(model)
    return dk.optim.InterpretableSGD(groups, 0.01, block_size=5, model=model, momentum=0.9, **KINDS[kind])


def stepper(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, kind: str) -> Callable[[], None]:
    """A training step."""
    optimizer = optimizer_of(model, kind)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def head_step(batch: int, classes: int, inputs: int, kind: str) -> Callable[[], None]:
    """A step of a head alone."""
    return stepper(nn.Linear(inputs, classes), torch.rand(batch, inputs), torch.arange(batch) % classes, kind)


def network_step(kind: str) -> Callable[[], None]:
    """A step of the network of `recipes/cifar10-small.yaml`, in float32."""
    model = dk.models.create("res8", 10, "compact", 32)
    return stepper(model, torch.rand(128, 3, 32, 32), torch.arange(128) % 10, kind)


def compare(steps: dict[str, Callable[[], None]], pairs: int) -> dict[str, dict[str, float]]:
    """Medians of each one's milliseconds, and of its ratios to the first one's in the same round."""
    seconds = in_turn(steps, pairs)
    return {
        name: {"ms": 1e3 * statistics.median(own), "ratio": statistics.median(ratios(seconds, name))}
        for name, own in seconds.items()
    }


if __name__ == "__main__":
    main()
