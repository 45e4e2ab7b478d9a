"""`dynamick explain --weights W.safetensors --images DIR --units tally.csv --out report.html`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamick.dissection import Dissection

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, required=True, help="a trained model's file, or a run's folder (its last weights)"
    )
    parser.add_argument("--images", type=Path, required=True, help="a folder of images, or of one folder for each class")
    parser.add_argument("--units", type=Path, help="the tally.csv of the layer that enters the head, for the units' names")
    parser.add_argument("--twin", type=Path, help="weights of a dense twin, for comparison")
    parser.add_argument("--limit", type=int, default=50, help="explain so many images at most, spread evenly (default: 50)")
    parser.add_argument("--out", type=Path, required=True, help="the page, one HTML file")


def run(args: argparse.Namespace) -> None:
    import torch

    from dynamick import checkpoint
    from dynamick.cli.explaining import explanation_page
    from dynamick.dissection import Dissection
    from dynamick.errors import InputError
    from dynamick.report.explanation import write_page

    weights = args.weights / "last.safetensors" if args.weights.is_dir() else args.weights
    model: Any = checkpoint.load(weights)
    units = None if args.units is None else Dissection.read_tally(args.units)
    if units is not None and len(units.rows) != model.fc.in_features:
        raise InputError(
            f"{args.units}: {len(units.rows)} units, but the head reads {model.fc.in_features}; dissect the layer before it"
        )
    if not args.out.parent.is_dir():
        raise InputError(f"{args.out}: its folder does not exist; give a file in a folder that does")
    images, files, skipped = _read(args.images, args.limit, model.preprocessing.size)
    truth = [_truth(file, model.classes) for file in files]
    notes = [f"{skipped} of the files could not be read as images and were left out."] if skipped else []
    twin = None if args.twin is None else _summary(args.twin, checkpoint.load(args.twin), None)
    page = explanation_page(
        f"What {model.config['model']} sees",
        model,
        torch.stack(images),
        [str(file.relative_to(args.images)) for file in files],
        model.classes,
        truth,
        _summary(weights, model, units),
        units,
        twin=twin,
        notes=notes,
    )
    write_page(page, args.out)
    print(f"{len(files)} images explained: {args.out}")


def _summary(weights: Path, model: Any, units: "Dissection | None") -> Any:
    from dynamick import checkpoint
    from dynamick.cli.explaining import summarise

    metrics = checkpoint.read_config(weights)["extra"].get("metrics", {})
    accuracy = metrics["top1"] / 100 if "top1" in metrics else None
    return summarise(model.config["model"], model, accuracy, units)


def _read(root: Path, limit: int, size: int | None) -> tuple[list[Any], list[Path], int]:
    """Up to `limit` images, spread evenly over the folder's files; files that are none are named on stderr and counted."""
    import numpy as np
    import torch

    from dynamick.data.images import read_image
    from dynamick.errors import InputError

    if limit < 1:
        raise InputError(f"--limit: {limit} must be an integer from 1 up")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give one with images in it")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    chosen = [files[i * len(files) // limit] for i in range(limit)] if len(files) > limit else files
    images, good, skipped = [], [], 0
    for path in chosen:
        try:
            # Without a size of the model's own, the first image's shorter side is everyone's, as all go through together.
            image = read_image(path, size)
            size = size or min(image.size)
            square = image if image.size == (size, size) else read_image(path, size)
            images.append(torch.from_numpy(np.array(square)))
            good.append(path)
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)
            skipped += 1
    if not good:
        raise InputError(f"{root}: no readable image ({', '.join(sorted(SUFFIXES))}); give a folder with some")
    return [image.permute(2, 0, 1).contiguous() for image in images], good, skipped


def _truth(file: Path, classes: list[str]) -> int | None:
    return classes.index(file.parent.name) if file.parent.name in classes else None
