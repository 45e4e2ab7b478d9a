"""Routing by agreement beside Dynamic-K and dense heads of equal size: a training step.

In each case all heads have equally many weights on the same inputs. Two cases are heads alone: 10 classes on 1024 features, and
365 classes on 512 features (the sizes of Places365 and a ResNet-18). In the third, whole training steps of one body
(`dynamick.models.CapsNet`'s) are taken with each of the heads, at the size of the scenes recipe. Inputs and weights are random.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import dynamick as dk
from benchmarks.cost.suite import Suite
from dynamick.nn import RoutingCapsules
from dynamick.nn.capsules import ROUTINGS

BATCH, POSE, K = 64, 8, 5
STEM = "patch"
IMAGES = 10_000
"""The images of an epoch that the notes speak of."""
HEADS = ("dense", f"Dynamic-{K}", *(f"routing-{each}" for each in ROUTINGS))


@dataclass(frozen=True)
class Case:
    """Capsules that come in, classes, and for whole networks the body's width and the images' side."""

    name: str
    capsules: int
    classes: int
    width: int = 0
    side: int = 0

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("a head, 10 classes on 1024", 128, 10),
    Case("a head, 365 classes on 512", 64, 365),
    Case("a network, 10 classes", 32, 10, width=16, side=64),
]


def check(case: Case) -> None:
    """Coupling adds up to 1, and one iteration of each routing is a plain mean or sum."""
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


def make(case: Case, way: str) -> Callable[[], int]:
    """A training step; it returns how many parameters it trains."""
    torch.manual_seed(0)
    model, inputs = head(way, case), torch.randn(BATCH, case.capsules * POSE)
    if case.width:
        network = dk.models.CapsNet(case.classes, STEM, case.width).train()
        assert network.fc.in_features == case.capsules * POSE
        network.fc = model
        model, inputs = network, torch.randn(BATCH, 3, case.side, case.side)
    labels = torch.randint(0, case.classes, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def step() -> int:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return sum(each.numel() for each in model.parameters())

    return step


def head(way: str, case: Case) -> Any:
    """A head on capsules * POSE numbers with capsules * POSE * classes * POSE weights (EM: two more a class)."""
    M, O = case.capsules * POSE, case.classes * POSE
    if way.startswith("routing-"):
        return _Capsules(case.capsules, POSE, case.classes, POSE, way.removeprefix("routing-"))
    linear = nn.Linear(M, O, bias=False) if way == "dense" else dk.DynamicLinear(M, O, K, bias=False)
    # POSE outputs a class, of which the mean is the logit, give a plain head as many weights as capsules have.
    return nn.Sequential(linear, nn.Unflatten(1, (case.classes, POSE)), _Mean())


class _Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(-1)


class _Capsules(RoutingCapsules):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x.unflatten(1, (self.in_capsules, POSE))).log_odds


def notes(case: Case, way: str, seconds: dict[str, float], parameters: int) -> str:
    """Parameters, and an epoch's time."""
    return f"{parameters:,} parameters, {seconds[way] * IMAGES / BATCH:.1f} s for {IMAGES:,} images"


SUITE = Suite(
    about="routing by agreement beside Dynamic-K and dense heads",
    cases=CASES,
    ways=lambda case: HEADS,
    make=make,
    check=check,
    memory_steps=3,
    small=lambda case: replace(case, capsules=4, classes=2, width=2, side=16),
    notes=notes,
    pairs=40,
)
