"""Small data sets in Broden's format, for the tests that read and write them."""

import csv

import numpy as np

from dynamick.data.broden import Label, Record, write

LABELS = [
    Label(1, "wheel", "part"),
    Label(300, "car", "object"),
    Label(65535, "last", "object"),
    Label(7, "street", "scene"),
]


def image(height=6, width=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pixel_map(*rows):
    return np.array(rows, np.uint16)


def small(root):
    """Two images: two object maps, a part map and a scene; then a scene alone."""
    objects = [pixel_map([300, 0, 0], [300, 0, 0]), pixel_map([65535, 65535, 0], [300, 0, 0])]
    first = Record("a/one", "train", image(), {"object": objects, "part": [pixel_map([0, 0, 1], [0, 0, 0])], "scene": [7]})
    write(root, LABELS, [first, Record("two", "val", image(8, 8, 1), {"scene": [7]})])
    return root


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
