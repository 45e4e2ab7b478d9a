"""A step of Interpretable SGD beside one of SGD, of heads alone and of the small CIFAR-10 network. Numbers are random."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import dynamick as dk
from benchmarks.cost.suite import Suite

KINDS: dict[str, dict[str, Any]] = {
    "SGD": {},
    "s = 0.9": {"s": 0.9},
    "s = 0.9, votes": {"s": 0.9, "estimate": "votes"},
    "s = 1": {"s": 1.0},
    "s = 0.9, literal": {"s": 0.9, "form": "literal"},
}


@dataclass(frozen=True)
class Case:
    """A head on so many inputs, or a whole network (no inputs), and the optimisers that take its step."""

    name: str
    batch: int
    classes: int
    inputs: int = 0
    ways: tuple[str, ...] = tuple(KINDS)

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("a head, 10 classes on 512, 128 images", 128, 10, 512),
    Case("a head, 365 classes on 512, 256 images", 256, 365, 512),
    Case("the network of cifar10-small, 128 images, float32", 128, 10, ways=("SGD", "s = 0.9")),
]


def check(case: Case) -> None:
    """Where all is drawn, the gradient is the dense one."""
    gy, x, weight = torch.randn(8, 4), torch.rand(8, 6), torch.randn(4, 6)
    found = dk.optim.interpretable_gradient(gy, x, weight, x @ weight.T, 0.9, block_size=6)
    torch.testing.assert_close(found, gy.T @ x)


def optimizer_of(model: nn.Module, way: str) -> torch.optim.Optimizer:
    """SGD with momentum, or Interpretable SGD on the head's weight."""
    if way == "SGD":
        return torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    groups = dk.optim.sampled_groups(model)
    return dk.optim.InterpretableSGD(groups, 0.01, block_size=5, model=model, momentum=0.9, **KINDS[way])


def make(case: Case, way: str) -> Callable[[], None]:
    """A training step."""
    network = dk.models.create("res8", case.classes, "compact", 32)
    model = nn.Linear(case.inputs, case.classes) if case.inputs else network
    x = torch.rand(case.batch, case.inputs) if case.inputs else torch.rand(case.batch, 3, 32, 32)
    labels, optimizer = torch.arange(case.batch) % case.classes, optimizer_of(model, way)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


SUITE = Suite(
    about="a step of Interpretable SGD beside one of SGD",
    cases=CASES,
    ways=lambda case: case.ways,
    make=make,
    check=check,
    pairs=20,
    warm=5,
)
