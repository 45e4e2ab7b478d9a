"""Images, concepts, a dense and a dynamic network with their dissections, and dissections that do not fit."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import dynamick as dk
from dynamick.data import Broden, ComposedScenes

SIDE = 32


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explained")
    scenes = ComposedScenes("val", 8, image_size=SIDE)
    (root / "images").mkdir()
    for i in range(len(scenes)):
        Image.fromarray(scenes.images[i].permute(1, 2, 0).numpy()).save(root / "images" / f"{i}.png")
    ComposedScenes("val", 90, seed=3, image_size=SIDE).write_broden(root / "concepts")
    for name in ("res8", "res8-d3a"):
        torch.manual_seed(1)
        model = dk.models.create(name, 10, stem="compact", width=8, classes=scenes.classes)
        dk.save(model, root / f"{name}.safetensors")
        found = dk.dissect(model, "layer3", Broden(root / "concepts"), progress=False)
        (root / name).mkdir()
        found.write_tally(root / name / "tally.csv")
        (root / name / "dissection.json").write_text(found.to_json())
    return root
