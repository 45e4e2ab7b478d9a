"""MiniPlaces without the training images that minibroden shows too.

python -m benchmarks.prepare.without_overlap MINIPLACES MINIBRODEN OUT

Links the images that are left under OUT, in the form that `dynamick train --data.kind folder --data.root OUT` reads.
"""

import csv
import re
import sys
from pathlib import Path


def shown_in(broden: Path) -> set[tuple[str, ...]]:
    """The training images of MiniPlaces that minibroden shows: place and number."""
    with (broden / "index.csv").open(newline="") as file:
        found = [re.fullmatch(r"miniplaces/train_\w_(\w+)_(\d{8})\.jpg", row["image"]) for row in csv.DictReader(file)]
    return {match.groups() for match in found if match}


def place_and_number(image: Path) -> tuple[str, str]:
    """Of a file PLACE/NUMBER of MiniPlaces, as minibroden writes them: "bakery-shop" here is "bakery_shop" there."""
    return image.parent.name.replace("-", "_"), image.stem


def main(places: Path, broden: Path, out: Path) -> None:
    """Link what only MiniPlaces has, and say how many images were left out."""
    shown = shown_in(broden)
    (out / "train").mkdir(parents=True)
    (out / "val").symlink_to((places / "val").resolve())
    left_out = 0
    for image in sorted((places / "train").glob("*/*")):
        if place_and_number(image) in shown:
            left_out += 1
            continue
        folder = out / "train" / image.parent.name
        folder.mkdir(exist_ok=True)
        (folder / image.name).symlink_to(image.resolve())
    print(f"{left_out} images left out")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
