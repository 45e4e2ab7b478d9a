"""What explanations cost: python benchmarks/explanation.py OUT.json

Against a plain forward pass over the same decoded images, in turns within one process, by processor time; and the page of 50
images: seconds and bytes. One thread by default, as other work on the machine then disturbs least.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamick import models
from dynamick.explanation import explain, page
from dynamick.preprocessing import Preprocessing

BATCH = 64
PAGE = 50
MOST_FORWARD_PASSES, MOST_SECONDS, MOST_BYTES = 1.5, 5.0, 5_000_000


class Case(NamedTuple):
    """A model and the images it is shown."""

    model: str
    classes: int
    stem: str
    width: int
    side: int
    images: int


CASES = [
    Case("res8-d5a", 10, "patch", 16, 64, 1000),
    Case("res8-d5a", 100, "imagenet", 64, 64, 256),
    Case("res8", 100, "imagenet", 64, 64, 256),
    Case("res18-d5a", 10, "cifar", 64, 32, 128),
    Case("res18-d5a", 365, "imagenet", 64, 224, 64),
]


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Medians over the repeats, of seconds of processor time."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=case.side)
    model = models.create(case.model, case.classes, stem=case.stem, width=case.width, preprocessing=preprocessing).eval()
    images = torch.randint(0, 256, (case.images, 3, case.side, case.side), dtype=torch.uint8)

    def forward() -> None:
        with torch.inference_mode():
            for batch in images.split(BATCH):
                model(preprocessing(batch))

    def explained() -> None:
        explain(model, images, batch_size=BATCH)

    def without_maps() -> None:
        explain(model, images, batch_size=BATCH, maps=False)

    seconds: dict[str, list[float]] = {"forward": [], "explained": [], "without_maps": []}
    for turn in range(repeats + 1):
        for name, work in (("forward", forward), ("explained", explained), ("without_maps", without_maps)):
            took = _seconds(work)
            if turn:  # the first turn warms up
                seconds[name].append(took)
    medians = {name: statistics.median(took) for name, took in seconds.items()}
    return {
        **case._asdict(),
        "seconds": medians,
        "forward passes": medians["explained"] / medians["forward"],
        "forward passes without maps": medians["without_maps"] / medians["forward"],
        "page": _page(model, images[:PAGE]),
    }


def _page(model: Any, images: Tensor) -> dict[str, float]:
    """Seconds (of processor time) and bytes of the page of some images, its forward pass included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"

        def write() -> None:
            page(model, images, path)

        return {"images": len(images), "seconds": _seconds(write), "bytes": path.stat().st_size}


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", type=int, nargs="+", default=range(len(CASES)), choices=range(len(CASES)), metavar="N")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs = [measure(CASES[n], args.repeats) for n in args.cases]
    args.out.write_text(json.dumps({"threads": args.threads, "torch": torch.__version__, "runs": runs}, indent=1))
    print(f"{'model':36} {'explained':>10} {'no maps':>8} (forward passes) {'page':>7} {'MB':>5}")
    for run in runs:
        name = f"{run['model']} {run['stem']} {run['width']}, {run['side']} px, {run['classes']} classes"
        page = run["page"]
        ratios = f"{run['forward passes']:10.2f} {run['forward passes without maps']:8.2f}"
        print(f"{name:36} {ratios} {'':16} {page['seconds']:6.1f}s {page['bytes'] / 1e6:5.2f}")
    kept = all(
        run["forward passes"] <= MOST_FORWARD_PASSES
        and run["page"]["seconds"] <= MOST_SECONDS
        and run["page"]["bytes"] <= MOST_BYTES
        for run in runs
    )
    print("all within 1.5 forward passes, 5 s and 5 MB" if kept else "NOT all within 1.5 forward passes, 5 s and 5 MB")


if __name__ == "__main__":
    main()
