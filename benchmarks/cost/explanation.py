"""Explanations beside a plain forward pass over the same decoded images, by processor time; and the page of 50 images.

Run it with `--threads 1`: other work on the machine then disturbs least.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost.suite import Suite
from dynamick import explanation, models
from dynamick.explanation import explain
from dynamick.preprocessing import Preprocessing

BATCH = 64
PAGE = 50
MOST_FORWARD_PASSES, MOST_SECONDS, MOST_BYTES = 1.5, 5.0, 5_000_000
"""The goals: an explanation's forward passes, and a page's seconds and bytes."""
WAYS = ("forward", "explained", "without maps", f"page of {PAGE}")


@dataclass(frozen=True)
class Case:
    """A model and the images it is shown."""

    model: str
    classes: int
    stem: str
    width: int
    side: int
    images: int

    def __str__(self) -> str:
        return f"{self.model} {self.stem} {self.width}, {self.side} px, {self.classes} classes, {self.images} images"


CASES = [
    Case("res8-d5a", 10, "patch", 16, 64, 1000),
    Case("res8-d5a", 100, "imagenet", 64, 64, 256),
    Case("res8", 100, "imagenet", 64, 64, 256),
    Case("res18-d5a", 10, "cifar", 64, 32, 128),
    Case("res18-d5a", 365, "imagenet", 64, 224, 64),
]


def make(case: Case, way: str) -> Callable[[], Any]:
    """A forward pass, explanations with or without maps, or the page of some images (it returns the page's bytes)."""
    model, images = network(case), pictures(case)
    if way == "forward":
        return lambda: forward(model, images)
    if way.startswith("page"):
        return lambda: page(model, images[:PAGE])
    return lambda: explain(model, images, batch_size=BATCH, maps=way == "explained")


def network(case: Case) -> Any:
    """A model of random weights."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=case.side)
    return models.create(case.model, case.classes, stem=case.stem, width=case.width, preprocessing=preprocessing).eval()


def pictures(case: Case) -> Tensor:
    """Random images, uint8."""
    return torch.randint(0, 256, (case.images, 3, case.side, case.side), dtype=torch.uint8)


def forward(model: Any, images: Tensor) -> None:
    """The logits of all images."""
    with torch.inference_mode():
        for batch in images.split(BATCH):
            model(model.preprocessing(batch))


def page(model: Any, images: Tensor) -> int:
    """The bytes of the page of some images, written to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        explanation.page(model, images, path)
        return path.stat().st_size


def check(case: Case) -> None:
    """Bias and products add up to the network's logit."""
    model, images = network(case), pictures(case)[:2]
    with torch.inference_mode():
        logits = model(model.preprocessing(images))
    for each, row in zip(explain(model, images, maps=False), logits, strict=True):
        torch.testing.assert_close(torch.tensor(each.logit), row[each.class_index], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.tensor(each.bias + sum(each.products)), row[each.class_index], rtol=1e-3, atol=1e-3)


def notes(case: Case, way: str, seconds: dict[str, float], result: Any) -> str:
    """Which goal there is, and whether it holds here."""
    if way == "explained":
        return f"goal {MOST_FORWARD_PASSES} forward passes: {held(seconds[way] / seconds['forward'] <= MOST_FORWARD_PASSES)}"
    if way.startswith("page"):
        fits = seconds[way] <= MOST_SECONDS and result <= MOST_BYTES
        return f"{result / 1e6:.2f} MB; goal {MOST_SECONDS:g} s and {MOST_BYTES / 1e6:g} MB: {held(fits)}"
    return ""


def held(goal: bool) -> str:
    """In words."""
    return "kept" if goal else "NOT kept"


SUITE = Suite(
    about="explanations, and their page, beside a forward pass",
    cases=CASES,
    ways=lambda case: WAYS,
    make=make,
    check=check,
    notes=notes,
    clock=time.process_time,
    pairs=3,
    warm=1,
)
