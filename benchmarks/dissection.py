"""What a dissection costs beside a plain forward pass over the same decoded images, in time and memory.

python benchmarks/dissection.py MINIBRODEN [--out FILE.json]

Each row runs in a process of its own, so that its peak memory is its own: ResNets of 96, 512 and 2,048 units on all images,
then 96 units on 1,000 to 60,000 images (the data set repeated). Labels are decoded before, and timed apart. The network's
weights are random, which keeps more maps than trained ones do. Run it where nothing else runs.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from pairs import machine, peak

from dynamick import models
from dynamick.data.broden import Broden
from dynamick.data.concepts import Sample
from dynamick.dissection import capture, dissect
from dynamick.preprocessing import Preprocessing

BATCH = 64
# name: arguments of models.create, the layer, and the side of the images; units and maps follow.
NETWORKS: dict[str, tuple[dict[str, Any], str, int]] = {
    "res8 of width 24": ({"name": "res8", "stem": "compact", "width": 24}, "layer3", 64),
    "res18": ({"name": "res18", "stem": "imagenet"}, "layer4", 128),
    "res50": ({"name": "res50", "stem": "imagenet"}, "layer4", 128),
}


class Decoded:
    """Samples of a data set, decoded once and repeated."""

    def __init__(self, source: Broden, images: int) -> None:
        self.labels, self.categories, self.map_size, self.images = source.labels, source.categories, source.map_size, images
        count = min(images, len(source))
        start = time.perf_counter()
        pixels = [source.image(index) for index in range(count)]
        middle = time.perf_counter()
        maps = [source.maps(index) for index in range(count)]
        self.image_seconds, self.label_seconds = middle - start, time.perf_counter() - middle
        self.samples = [Sample(str(index), *both) for index, both in enumerate(zip(pixels, maps, strict=True))]

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index % len(self.samples)]


def main() -> None:
    """Measure each row in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--networks", nargs="+", default=[*NETWORKS], choices=[*NETWORKS])
    parser.add_argument("--counts", type=int, nargs="*", default=[1_000, 4_000, 16_000, 60_000])
    args = parser.parse_args()
    whole = len(Broden(args.data))
    rows = [(name, whole) for name in args.networks] + [("res8 of width 24", count) for count in args.counts]
    print(
        "| network | units | maps | images | forward, ms/image | dissection | ratio | ratio to its own forward"
        " | maps kept | MB | of all | process, MB |"
    )
    print("|---" * 12 + "|")
    found = []
    for name, images in rows:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(measure, (args.data, name, images)))
        print(row(found[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "rows": found}, indent=1) + "\n")


def row(found: dict[str, Any]) -> str:
    images, kept = found["images"], found["measured"]
    # Two forward passes differ by up to a tenth from noise alone; the dissection's own is free of that.
    own = kept["preprocess_seconds"] + kept["forward_seconds"]
    cells = [
        found["network"],
        found["units"],
        found["maps"],
        images,
        f"{1000 * found['forward_seconds'] / images:.2f}",
        f"{1000 * found['dissect_seconds'] / images:.2f}",
        f"{found['dissect_seconds'] / found['forward_seconds']:.3f}",
        f"{found['dissect_seconds'] / own:.3f}",
        f"{kept['maps_kept_share']:.1%}",
        f"{kept['peak_bytes'] / 1e6:.0f}",
        f"{kept['peak_bytes'] / kept['all_bytes']:.1%}",
        f"{found['added_process_bytes'] / 1e6:.0f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def measure(data: Path, name: str, images: int) -> dict[str, Any]:
    """Seconds of a forward pass and of a dissection; the process's memory is what the dissection added to its peak."""
    dataset = Decoded(Broden(data), images)
    arguments, layer, size = NETWORKS[name]
    torch.manual_seed(0)
    model = models.create(**arguments, preprocessing=Preprocessing(size=size)).eval()
    batches = [range(first, min(first + BATCH, images)) for first in range(0, images, BATCH)]
    shape: tuple[int, ...] = ()
    seconds = 0.0
    with torch.inference_mode(), capture(model, layer) as taken:
        for repeat in range(2):
            # The first round warms the caches.
            start = time.perf_counter()
            for batch in batches if repeat else batches[:3]:
                model(model.preprocessing(torch.stack([dataset[index].image for index in batch])))
                shape = tuple(taken.take().shape[1:])
            seconds = time.perf_counter() - start
    before = peak()
    start = time.perf_counter()
    result = dissect(model, layer, dataset, batch_size=BATCH, progress=False)
    dissect_seconds = time.perf_counter() - start
    return {
        "network": name,
        "units": shape[0],
        "maps": f"{shape[1]}x{shape[2]}",
        "images": images,
        "image_decoding_seconds": dataset.image_seconds,
        "label_decoding_seconds": dataset.label_seconds,
        "forward_seconds": seconds,
        "dissect_seconds": dissect_seconds,
        "added_process_bytes": peak() - before,
        "measured": result.measured,
    }


if __name__ == "__main__":
    main()
