"""Dissections side by side, each in a process of its own: dynamick beside NetDissect-Lite, quick-netdissect, or both.

python -m benchmarks.cost.beside_netdissect MINIBRODEN [--lite CHECKOUT] [--quick CHECKOUT] [--weights W] [--out FILE.json]

The checkouts are those of github.com/CSAILVision/NetDissect-Lite and github.com/davidbau/quick-netdissect; they need scipy.
Each clock starts when the network is loaded and the data set's tables are read, as far as the tool keeps these apart.
Copies are run with what today's Python, NumPy and SciPy have renamed or dropped put back; their arithmetic is as published.
All show the same network the same images, file by file, without writing pictures. Run it where nothing else runs.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.cost.measuring import machine
from dynamick import models, networks
from dynamick.data.broden import Broden
from dynamick.dissection import dissect
from dynamick.preprocessing import Preprocessing

LAYER, BATCH = "layer3", 64
SIZE = 128  # minibroden's own: NetDissect-Lite does not resize
NAMES = {"dynamick": "dynamick", "lite": "NetDissect-Lite", "quick": "quick-netdissect"}
CATEGORIES = ["object", "part", "scene", "texture"]
# What Python 3.7 (PEP 479), NumPy 1.23 and 2.0 ended, as far as these two use it.
RENAMED = {
    "lite": {
        "raise StopIteration": "return",
        "list(np.indices(arr.shape)) + [arr]": "tuple(np.indices(arr.shape)) + (arr,)",
        "numpy.NaN": "numpy.nan",
        "scipy.ndimage.interpolation": "scipy.ndimage",
        "scipy.ndimage.filters": "scipy.ndimage",
        "volatile=True": "",
    },
    "quick": {"numpy.asarray(self.loader(": "numpy.int64(self.loader("},
}


def main() -> None:
    """Run each tool in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--lite", type=Path, help="a checkout of NetDissect-Lite")
    parser.add_argument("--quick", type=Path, help="a checkout of quick-netdissect")
    parser.add_argument("--weights", type=Path, help="a dynamick checkpoint with a layer3; by default 96 units, random weights")
    parser.add_argument("--images", type=int, help="only the first so many")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as scratch:
        data = subset(args.data.resolve(), Path(scratch) / "data" / "broden1_224", args.images)
        peers = {name: tool for name, tool in (("lite", run_lite), ("quick", run_quick)) if getattr(args, name)}
        for name, tool in {"dynamick": run_ours, **peers}.items():
            found[name] = in_process(tool, args, data, Path(scratch) / name)
            print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    print(table(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


def table(found: dict[str, Any]) -> str:
    """Seconds and bytes of each tool, and the ratios that matter, as Markdown."""
    names = [name for name in NAMES if name in found]
    rows = ["total", "decoding_images", "forward", "decoding_labels", "added"]
    lines = [f"| seconds | {' | '.join(NAMES[name] for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row.replace('_', ' ')} | " + " | ".join(cell(found[name].get(row)) for name in names) + " |")
    stored = [found[name]["activation_bytes"] for name in names]
    lines.append("| stored activations, MB | " + " | ".join(cell(None if s is None else s / 1e6) for s in stored) + " |")
    lines.append("| mean score | " + " | ".join(f"{found[name]['mean_score']:.4f}" for name in names) + " |\n")
    ours = found["dynamick"]
    lines += [f"total: {ours['total'] / found[name]['total']:.2f} of {NAMES[name]}'s" for name in names[1:]]
    if "lite" in found:
        for what, key in (("added to the forward pass", "added"), ("stored activations", "activation_bytes")):
            lines.append(f"{what}: 1/{found['lite'][key] / ours[key]:.1f} of NetDissect-Lite's")
    return "\n".join(lines)


def cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def subset(data: Path, folder: Path, images: int | None) -> Path:
    """The data set with all its images in one split, as quick-netdissect reads only one; nothing is copied but the index."""
    folder.mkdir(parents=True)
    for file in data.iterdir():
        if file.name != "index.csv":
            (folder / file.name).symlink_to(file)
    lines = (data / "index.csv").read_text().splitlines()
    split = lines[0].split(",").index("split")
    rows = [line.split(",") for line in lines[1:]][:images]
    text = [",".join([*row[:split], "train", *row[split + 1 :]]) for row in rows]
    (folder / "index.csv").write_text("\n".join([lines[0], *text]) + "\n")
    return folder


def in_process(tool: Any, args: argparse.Namespace, data: Path, scratch: Path) -> dict[str, Any]:
    """What a tool measured in a fresh process, with that process's peak memory."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, tool, args, data, scratch))
    process.start()
    theirs.close()
    try:
        found: dict[str, Any] = mine.recv()
    except EOFError:
        raise SystemExit(f"{tool.__name__}: it failed; its traceback is above") from None
    process.join()
    return found


def _child(pipe: Any, tool: Any, args: argparse.Namespace, data: Path, scratch: Path) -> None:
    scratch.mkdir()
    # NetDissect-Lite's pool of loaders counts on what a fork inherits.
    multiprocessing.set_start_method("fork", force=True)
    found = tool(args, data, scratch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send({**found, "peak_process_bytes": peak})


def network(args: argparse.Namespace) -> torch.nn.Module:
    """The network that all three dissect."""
    if args.weights:
        return networks.load(args.weights).eval()
    torch.manual_seed(0)
    return models.create("res8", width=24, stem="compact", preprocessing=Preprocessing()).eval()


def prepared(args: argparse.Namespace) -> Preprocessing:
    return Preprocessing(size=SIZE)


def run_ours(args: argparse.Namespace, data: Path, scratch: Path) -> dict[str, Any]:
    """dynamick; what it adds is timed inside, for it is less than the noise between two forward passes."""
    model, dataset = network(args), Broden(data)
    start = time.perf_counter()
    found = dissect(model, LAYER, dataset, "lite", preprocessing=prepared(args), batch_size=BATCH, progress=False)
    total = time.perf_counter() - start
    forward = found.measured["preprocess_seconds"] + found.measured["forward_seconds"]
    images, labels = (found.measured[f"{part}_of_seconds"] for part in ("image", "maps"))
    return {
        "total": total,
        "decoding_images": images,
        "forward": forward,
        "decoding_labels": labels,
        "added": total - images - labels - forward,
        "activation_bytes": found.measured["peak_bytes"],
        "mean_score": float(found.scores.mean()),
    }


def run_lite(args: argparse.Namespace, data: Path, scratch: Path) -> dict[str, Any]:
    """NetDissect-Lite: features to a file, a sketch of the quantiles, the tally."""
    checkout = renamed(args.lite, "lite", scratch)
    settings = types.ModuleType("settings")
    vars(settings).update(
        GPU=False, CATAGORIES=CATEGORIES, OUTPUT_FOLDER=str(scratch / "result"), DATA_DIRECTORY=str(data), FEATURE_NAMES=[LAYER]
    )
    vars(settings).update(QUANTILE=0.005, PARALLEL=1, BATCH_SIZE=BATCH, TALLY_BATCH_SIZE=16, TALLY_AHEAD=4)
    vars(settings).update(IMG_SIZE=SIZE, INDEX_FILE="index.csv", SEG_THRESHOLD=0.04, SCORE_THRESHOLD=0.04, TOPN=10)
    sys.modules["settings"] = settings
    old_scipy()
    sys.path.insert(0, str(checkout))
    import feature_operation  # type: ignore[import-not-found]

    model = network(args)
    model.get_submodule(LAYER).register_forward_hook(feature_operation.hook_feature)
    operator = feature_operation.FeatureOperator()
    seconds: dict[str, float] = {}
    with quiet(), torch.no_grad():
        with clock(seconds, "features"):
            features, _ = operator.feature_extraction(model=model)
        with clock(seconds, "quantiles"):
            thresholds = operator.quantile_threshold(features[0], savepath="quantile.npy")
        with clock(seconds, "tally"):
            rows = operator.tally(features[0], thresholds, savepath="tally.csv")
        with clock(seconds, "labels"):
            names = operator.data.category_names()
            fetcher = feature_operation.SegmentationPrefetcher(
                operator.data, categories=names, once=True, batch_size=settings.TALLY_BATCH_SIZE, ahead=settings.TALLY_AHEAD
            )
            for _ in fetcher.batches():
                pass
    return {
        "total": seconds["features"] + seconds["quantiles"] + seconds["tally"],
        "forward": seconds["features"],
        "decoding_labels": seconds["labels"],
        "added": seconds["quantiles"] + seconds["tally"] - seconds["labels"],
        "activation_bytes": (scratch / "result" / f"{LAYER}.mmap").stat().st_size,
        "mean_score": float(np.mean([row["score"] for row in rows])),
        "seconds": seconds,
    }


def run_quick(args: argparse.Namespace, data: Path, scratch: Path) -> dict[str, Any]:
    """quick-netdissect: the network twice, the second time image by image; no pictures, no report."""
    checkout = renamed(args.quick, "quick", scratch)
    old_scipy()
    sys.path.insert(0, str(checkout))
    import netdissect  # type: ignore[import-not-found]

    prepare = prepared(args)

    def transform(image: Image.Image) -> torch.Tensor:
        return prepare(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])[0]

    model = network(args)
    netdissect.retain_layers(model, [LAYER], add_scale_offset=False)
    dataset = netdissect.BrodenDataset(str(data.parent), resolution=224, categories=CATEGORIES, transform_image=transform)
    seconds: dict[str, float] = {}
    with quiet(), clock(seconds, "total"):
        _, labels = netdissect.dissect(
            str(scratch / "result"),
            model,
            dataset,
            batch_size=BATCH,
            num_workers=0,
            examples_per_unit=10,
            make_images=False,
            make_report=False,
        )
    return {"total": seconds["total"], "activation_bytes": None, "mean_score": float(labels[2][LAYER].max(0)[0].mean())}


def renamed(checkout: Path, name: str, scratch: Path) -> Path:
    """A copy of a checkout in today's names."""
    copy = scratch / "checkout"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"))
    for file in copy.rglob("*.py"):
        text = file.read_text()
        for old, new in RENAMED[name].items():
            text = text.replace(old, new)
        file.write_text(text)
    return copy


def old_scipy() -> None:
    """scipy.misc as it was before SciPy 1.2, by Pillow, on which it stood."""
    misc = types.ModuleType("scipy.misc")

    def imread(path: str) -> np.ndarray:
        # NumPy 1 widened uint8 * 256; wide from the start gives the same numbers.
        return np.asarray(Image.open(path)).astype(np.int32)

    def imresize(values: np.ndarray, size: tuple[int, int], mode: str | None = None) -> np.ndarray:
        image = Image.fromarray(np.asarray(values, np.float32), mode="F")
        return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))

    vars(misc).update(imread=imread, imresize=imresize, imsave=None, toimage=None)
    sys.modules["scipy.misc"] = misc


@contextlib.contextmanager
def clock(seconds: dict[str, float], what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - start


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Their line a batch is not what is measured."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


if __name__ == "__main__":
    main()
