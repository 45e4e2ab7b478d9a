"""A small network to be explained, images, and a dissection of it."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

import dynamick as dk


class Small(nn.Module):
    """A network with few units, whose maps are pooled into the head."""

    def __init__(self, units: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, units, 3, stride=2), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.pool(self.body(x)).flatten(1)))


def small(k: int | None = None, rule: str = "at_most", seed: int = 0, units: int = 6, classes: int = 4) -> Small:
    torch.manual_seed(seed)
    model = Small(units, classes)
    return model if k is None else dk.convert(model, k=k, rule=rule)


def images(count: int = 5, side: int = 9, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def dissection(units: int, layer: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        labels=[f"thing {unit}" for unit in range(units)],
        categories=["object"] * units,
        scores=[(unit + 1) / 10 for unit in range(units)],
        detectors=[unit > 0 for unit in range(units)],
        layer=layer,
    )
