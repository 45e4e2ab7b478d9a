"""What a dissection costs: python benchmarks/dissection.py MINIBRODEN OUT.json

Against a plain forward pass over the same decoded images, with label decoding timed apart, and the peak of kept maps at 512
and 2,048 units. Figures are of the machine as it is: run it where nothing else runs.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from dynamick import models
from dynamick.data.broden import Broden
from dynamick.data.concepts import Sample
from dynamick.dissection import capture, dissect
from dynamick.preprocessing import Preprocessing

BATCH = 64


class Decoded:
    """Samples of a data set, decoded once and repeated."""

    def __init__(self, source: Broden, images: int) -> None:
        start = time.perf_counter()
        self.labels, self.categories, self.map_size, self.images = source.labels, source.categories, source.map_size, images
        self.samples = [source[index] for index in range(min(images, len(source)))]
        self.seconds = time.perf_counter() - start

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index % len(self.samples)]


def measure(dataset: Decoded, width: int) -> dict[str, Any]:
    """Seconds of a forward pass and of a dissection of `layer3`, 4 * width units of 16x16 maps (random weights)."""
    torch.manual_seed(0)
    model = models.create("res8", width=width, preprocessing=Preprocessing(size=64)).eval()
    start = time.perf_counter()
    with torch.inference_mode(), capture(model, "layer3"):
        for first in range(0, len(dataset), BATCH):
            some = [dataset[index].image for index in range(first, min(first + BATCH, len(dataset)))]
            model(model.preprocessing(torch.stack(some)))
    forward = time.perf_counter() - start
    start = time.perf_counter()
    result = dissect(model, "layer3", dataset, batch_size=BATCH, progress=False)
    total = time.perf_counter() - start
    return {
        "units": 4 * width,
        "images": len(dataset),
        "forward_seconds": forward,
        "dissect_seconds": total,
        "ratio": total / forward,
        "peak_share_of_all_maps": result.measured["peak_bytes"] / result.measured["all_bytes"],
        "peak_process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "measured": result.measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=6068)
    parser.add_argument("--units", type=int, nargs="+", default=[96, 512, 2048], help="multiples of 4")
    args = parser.parse_args()
    dataset = Decoded(Broden(args.data), args.images)
    runs = [measure(dataset, units // 4) for units in args.units]
    found = {"decoding_seconds": dataset.seconds, "threads": torch.get_num_threads(), "torch": torch.__version__, "runs": runs}
    args.out.write_text(json.dumps(found, indent=1))
    for run in runs:
        print(f"{run['units']} units: {run['ratio']:.3f} forward passes, peak {run['peak_share_of_all_maps']:.2%} of all maps")


if __name__ == "__main__":
    main()
