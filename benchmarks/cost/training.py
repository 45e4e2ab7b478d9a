"""A training step with a Dynamic-5 head beside one with a dense head. Random images: the cost does not depend on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import dynamick as dk
from benchmarks.cost.suite import Suite
from dynamick.training.optimising import make_optimizer
from dynamick.training.recipe import OptimRecipe
from dynamick.training.run import autocast

BATCH, WIDTH, STEM = 128, 32, "compact"


@dataclass(frozen=True)
class Case:
    """What takes the step, and on how many pairs by default."""

    name: str
    body: str

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("the network of cifar10-small, 128 images", "res8"),
    Case("a ResNet18 for Places365, 8 images of 224 x 224", "res18"),
]


def make(case: Case, way: str) -> Callable[[], None]:
    """A step of a body with one of the heads."""
    name = case.body + {"dense": "", "Dynamic-5": "-d5a"}[way]
    return stepper(name) if case.body == "res8" else places(name)


def places(name: str) -> Callable[[], None]:
    """A step of a ResNet18 on 8 images of 224 x 224, 365 classes: the head of a network for Places."""
    model = dk.models.create(name, num_classes=365, stem="imagenet")
    images = torch.randn(8, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    return step_of(model, lambda: images, torch.randint(0, 365, (8,)))


def stepper(name: str, **options: Any) -> Callable[[], None]:
    """A function that takes one training step as the recipe does; options are of its `optim`."""
    model = dk.models.create(name, stem=STEM, width=WIDTH)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)

    def prepared() -> torch.Tensor:
        return model.preprocessing(images).contiguous(memory_format=torch.channels_last)

    return step_of(model, prepared, torch.randint(0, 10, (BATCH,)), **options)


def step_of(model: Any, prepared: Callable[[], torch.Tensor], labels: torch.Tensor, **options: Any) -> Callable[[], None]:
    """A training step of a model on images, channels last; options are of the recipe's `optim`."""
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, OptimRecipe(lr=0.01, nesterov=True, head_weight_decay=1e-2, **options))

    def step() -> None:
        with autocast("auto", torch.device("cpu")):
            logits = model(prepared())
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def check(case: Case) -> None:
    """The head's output is the sum of its five largest positive products."""
    x, w = torch.randn(32, 128).relu(), torch.randn(10, 128)
    want = (x[:, None] * w).relu().topk(5).values.sum(2)
    torch.testing.assert_close(dk.functional.dynamic_linear(x, w, k=5), want)


SUITE = Suite(
    about="a training step with a Dynamic-5 head beside a dense one",
    cases=CASES,
    ways=lambda case: ("dense", "Dynamic-5"),
    make=make,
    check=check,
    pairs=60,
    warm=5,
)
