"""Small networks, images and features with a known answer."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dynamick import models
from dynamick.comparison.cache import Features
from dynamick.comparison.heads import stepped, tuning
from dynamick.data.images import ImageTensors
from dynamick.preprocessing import Preprocessing


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepped, "STEPS", 60)
    # The fixtures' classes can be separated: a weak penalty takes a solver far out.
    monkeypatch.setattr(tuning, "L2S", (1e-1, 1e-2, 1e-3))


@pytest.fixture
def model() -> models.ResNet:
    torch.manual_seed(0)
    return models.create("res8", 3, "patch", 2, Preprocessing(), ["cat", "dog", "owl"]).eval()


@pytest.fixture
def images() -> ImageTensors:
    generator = torch.Generator().manual_seed(1)
    shape = (70, 3, 8, 8)
    drawn = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return ImageTensors(drawn, torch.arange(70) % 3, ["cat", "dog", "owl"])


@pytest.fixture
def features() -> Features:
    """Non-negative features, 12 units; class c depends on units c and c + 3 alone."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(600, 12, generator=generator)
    labels = (2 * x[:, :3] + x[:, 3:6]).argmax(1)
    return Features(x, labels, ["a", "b", "c"], [f"image {row}" for row in range(600)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of two classes told by their colour: ROOT/train/CLASS/*, ROOT/val/CLASS/*."""
    generator = torch.Generator().manual_seed(3)
    for split, count in (("train", 12), ("val", 6)):
        for label, name in enumerate(("blue", "red")):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(0, 60, (16, 16, 3), generator=generator, dtype=torch.uint8)
                noise[..., 2 - 2 * label] += 180
                Image.fromarray(noise.numpy()).save(place / f"{number}.png")
    return tmp_path / "images"
