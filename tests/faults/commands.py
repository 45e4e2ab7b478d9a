"""The commands that are killed, each on inputs of its own that take seconds."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import dynamick as dk

OUT = "out"
SIDE = 32


def network(folder: Path) -> None:
    """Weights of a small network of two classes, and what it is shown."""
    preprocessing = dk.Preprocessing(SIDE, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    model = dk.models.create("res8", 2, "patch", 8, preprocessing, ["a", "b"])
    dk.save(model, folder / "net.safetensors")


def image(path: Path, seed: int, label: int = 0) -> None:
    """Noise, lighter in the second class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 156, (SIDE, SIDE, 3), dtype=np.uint8) + np.uint8(100 * label)
    Image.fromarray(pixels).save(path)


def photographs(folder: Path) -> None:
    """A folder of images in two classes."""
    for split, first, count in (("train", 0, 12), ("val", 1000, 4)):
        for label, name in enumerate("ab"):
            for number in range(count):
                image(folder / "images" / split / name / f"{number}.png", first + 100 * label + number, label)


def concepts(folder: Path) -> None:
    """Images with masks of two concepts."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[: SIDE // 2] = 255
    for number in range(12):
        image(folder / "concepts" / "images" / f"{number}.png", number)
        for name, pixels in (("top", mask), ("left", mask.T)):
            path = folder / "concepts" / "masks" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def inputs(folder: Path) -> None:
    """All that the commands read."""
    folder.mkdir()
    for make in (network, photographs, concepts):
        make(folder)


TRAIN = """
train scenes-small --out out --precision 32 --width 8 --data.size 32 --data.train_images 64 --data.val_images 20
--optim.epochs 2 --optim.batch_size 32
"""
COMMANDS = {
    "train": TRAIN,
    "train --restart": f"{TRAIN} --restart",
    "dissect": """
    dissect --model res8 --weights inputs/net.safetensors --layer layer3 --data inputs/concepts --out out --batch-size 4
    """,
    "compare": """
    compare --weights inputs/net.safetensors --data folder --root inputs/images --out out --heads dense magnitude top-k
    --budgets 1 2 --seeds 1 --concepts inputs/concepts
    """,
    "retrofit": """
    retrofit --model res8 --weights inputs/net.safetensors --data inputs/images --k 2 --out out
    """,
    "explain": """
    explain --weights inputs/net.safetensors --images inputs/images/val --out out/page.html --json out/all.json
    --pictures out/pictures --measure out/measure.json --study out/study.html
    """,
}
"""By name what is typed."""
FIRST: dict[str, Callable[[Path], None]] = {"explain": lambda folder: (folder / OUT).mkdir()}
"""What a command needs to be there before."""
