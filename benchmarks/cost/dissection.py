"""A dissection beside a plain forward pass over the same decoded images.

ResNets of 96, 512 and 2,048 units on all images of a Broden directory, then 96 units on 1,000 to 60,000 images (the data set
repeated). Labels are decoded before. The network's weights are random, which keeps more maps than trained ones do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.cost.measuring import peak, peak_anew
from benchmarks.cost.suite import Suite
from dynamick import models
from dynamick.data.broden import Broden
from dynamick.data.concepts import Sample
from dynamick.dissection import capture, dissect
from dynamick.preprocessing import Preprocessing

BATCH = 64
# name: arguments of models.create, the layer, and the side of the images.
NETWORKS: dict[str, tuple[dict[str, Any], str, int]] = {
    "res8 of width 24": ({"name": "res8", "stem": "compact", "width": 24}, "layer3", 64),
    "res18": ({"name": "res18", "stem": "imagenet"}, "layer4", 128),
    "res50": ({"name": "res50", "stem": "imagenet"}, "layer4", 128),
}
COUNTS = (1_000, 4_000, 16_000, 60_000)


@dataclass(frozen=True)
class Case:
    """A network and how many images it is shown; 0 for all."""

    data: str
    network: str
    images: int = 0

    def __str__(self) -> str:
        return f"{self.network}, {self.images or 'all'} images"


class Decoded:
    """Samples of a data set, decoded once and repeated."""

    def __init__(self, source: Broden, images: int) -> None:
        self.labels, self.categories, self.map_size, self.images = source.labels, source.categories, source.map_size, images
        samples = range(min(images, len(source)))
        self.samples = [Sample(str(index), source.image(index), source.maps(index)) for index in samples]

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index % len(self.samples)]


def with_data(data: Path) -> list[Case]:
    """All networks on the whole data set, and the smallest on more and more images."""
    whole = [Case(str(data), name) for name in NETWORKS]
    return whole + [Case(str(data), "res8 of width 24", count) for count in COUNTS]


def make(case: Case, way: str) -> Callable[[], Any]:
    """A forward pass over all images, or their dissection; each returns what the notes say."""
    source = Broden(Path(case.data))
    dataset = Decoded(source, case.images or len(source))
    arguments, layer, size = NETWORKS[case.network]
    torch.manual_seed(0)
    model = models.create(**arguments, preprocessing=Preprocessing(size=size)).eval()
    return (lambda: forward(model, layer, dataset)) if way == "forward" else (lambda: dissected(model, layer, dataset))


def forward(model: Any, layer: str, dataset: Decoded) -> dict[str, Any]:
    """The network's pass over all images, with the layer's maps taken out and dropped."""
    with torch.inference_mode(), capture(model, layer) as taken:
        for first in range(0, len(dataset), BATCH):
            batch = range(first, min(first + BATCH, len(dataset)))
            model(model.preprocessing(torch.stack([dataset[index].image for index in batch])))
            shape = tuple(taken.take().shape[1:])
    return {"shape": shape, "images": len(dataset)}


def dissected(model: Any, layer: str, dataset: Decoded) -> dict[str, Any]:
    """What a dissection says about itself, and what it added to the process's peak memory."""
    before = peak_anew()
    result = dissect(model, layer, dataset, batch_size=BATCH, progress=False)
    return {**result.measured, "images": len(dataset), "added": peak() - before}


def check(case: Case) -> None:
    """A dissection of a few images is finite and has a unit a channel."""
    arguments, layer, size = NETWORKS[case.network]
    model = models.create(**arguments, preprocessing=Preprocessing(size=size)).eval()
    few = Decoded(Broden(Path(case.data)), 2 * BATCH)
    found = dissect(model, layer, few, batch_size=BATCH, progress=False)
    assert len(found.scores) == forward(model, layer, few)["shape"][0]
    assert all(0 <= each <= 1 for each in found.scores)


def notes(case: Case, way: str, seconds: dict[str, float], result: dict[str, Any]) -> str:
    """Units and maps; or what was held of all activations, and the ratio to the pass that the dissection itself made."""
    each = f"{1000 * seconds[way] / result['images']:.2f} ms an image"
    if way == "forward":
        units, *side = result["shape"]
        return f"{each}, {units} units of {'x'.join(map(str, side))}"
    # Two forward passes differ by up to a tenth from noise alone; the dissection's own is free of that.
    own = seconds[way] / (result["preprocess_seconds"] + result["forward_seconds"])
    held = f"{result['peak_bytes'] / 1e6:.0f} MB held, {result['peak_bytes'] / result['all_bytes']:.1%} of all"
    kept = f"{result['maps_kept_share']:.1%} of maps kept"
    return f"{each}, {own:.3f} of its own forward pass, {kept}, {held}, process +{result['added'] / 1e6:.0f} MB"


SUITE = Suite(
    about="a dissection beside a forward pass (--data: a Broden directory)",
    ways=lambda case: ("forward", "dissection"),
    make=make,
    check=check,
    notes=notes,
    pairs=1,
    warm=0,
    with_data=with_data,
)
