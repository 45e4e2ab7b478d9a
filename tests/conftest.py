"""Tests of what is not here are skipped; what tests of several rooms need."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

import dynamick  # noqa: F401  (first: `import torchvision` then works with any build)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("DYNAMICK_DATA"):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="DYNAMICK_DATA does not say where the real data is"))


@pytest.fixture(autouse=True, scope="session")
def _state_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests sign with a key of their own, not with the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def two_colours(tmp_path: Path) -> Path:
    """ROOT/train/CLASS and ROOT/val/CLASS, two classes told by their colour."""
    generator = torch.Generator().manual_seed(3)
    for split, count in (("train", 20), ("val", 8)):
        for label, name in enumerate(("blue", "red")):
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = torch.randint(0, 60, (16, 16, 3), generator=generator, dtype=torch.uint8)
                noise[..., 2 - 2 * label] += 180
                Image.fromarray(noise.numpy()).save(place / f"{number}.png")
    return tmp_path / "data"
