"""Small dissections whose every activation is known, and their slow definition in plain NumPy."""

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dynamick.data.concepts import Label, Sample
from dynamick.preprocessing import Preprocessing


class Table(torch.nn.Module):
    """A model whose `layer` puts out given maps: an image's first pixel says which."""

    preprocessing = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))

    def __init__(self, maps):
        super().__init__()
        self.register_buffer("maps", torch.as_tensor(maps))
        self.layer = torch.nn.Identity()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        red, green = (x[:, :2, 0, 0] * 255).round().long().T
        return self.layer(self.maps[red + 256 * green])


class InMemory:
    """A data set of the protocol: `maps[i]` is category -> (L, h, w) array of label numbers, made int32, or a tensor."""

    def __init__(self, labels, categories, map_size, maps):
        self.labels, self.categories, self.map_size, self.all_maps = labels, categories, map_size, maps

    def __len__(self):
        return len(self.all_maps)

    def __getitem__(self, index):
        image = torch.zeros(3, 2, 2, dtype=torch.uint8)
        image[0], image[1] = index % 256, index // 256
        maps = {
            category: each if isinstance(each, torch.Tensor) else torch.as_tensor(each, dtype=torch.int32)
            for category, each in self.all_maps[index].items()
        }
        return Sample(f"image-{index}", image, maps)


def upsampled(plane, size):
    """Bilinear interpolation, align_corners=False, one pixel after the other, in float64."""
    h, w = plane.shape
    out = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            y = max((i + 0.5) * h / size[0] - 0.5, 0.0)
            x = max((j + 0.5) * w / size[1] - 0.5, 0.0)
            y0, x0 = min(int(y), h - 1), min(int(x), w - 1)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            upper = float(plane[y0, x0]) * (1 - (x - x0)) + float(plane[y0, x1]) * (x - x0)
            lower = float(plane[y1, x0]) * (1 - (x - x0)) + float(plane[y1, x1]) * (x - x0)
            out[i, j] = upper * (1 - (y - y0)) + lower * (y - y0)
    return out


def slow_dissection(maps, dataset, rule, quantile):
    """Network Dissection by its definition, unit after unit, image after image, pixel after pixel. NaN is the lowest value."""
    N, U = maps.shape[:2]
    labels = sorted(dataset.labels)
    thresholds = []
    for u in range(U):
        values = sorted(-math.inf if math.isnan(v) else float(v) for v in maps[:, u].ravel())
        thresholds.append(values[math.ceil(Fraction(str(quantile)) * len(values)) - 1])
    inter = np.zeros((U, len(labels)), int)
    areas = np.zeros((U, len(dataset.categories)), int)
    sizes = np.zeros(len(labels), int)
    H, W = dataset.map_size
    for i in range(N):
        concept = np.zeros((len(labels), H, W), bool)
        for several in dataset.all_maps[i].values():
            for plane in np.asarray(several):
                for y in range(H):
                    for x in range(W):
                        number = plane[0, 0] if plane.shape == (1, 1) else plane[y, x]
                        for l, label in enumerate(labels):
                            concept[l, y, x] |= number == label.number
        sizes += concept.sum((1, 2))
        for u in range(U):
            plane = np.where(np.isnan(maps[i, u]), -1e30, maps[i, u])
            if plane.max() <= thresholds[u]:
                continue
            mask = upsampled(plane, (H, W)) > thresholds[u]
            for c, category in enumerate(dataset.categories):
                members = [l for l, label in enumerate(labels) if label.category == category]
                if rule == "lite":
                    counted = any((mask & concept[l]).any() for l in members)
                else:
                    counted = any(concept[l].any() for l in members)
                areas[u, c] += mask.sum() if counted else 0
            for l in range(len(labels)):
                inter[u, l] += (mask & concept[l]).sum()
    iou = np.zeros(inter.shape)
    for u in range(U):
        for l, label in enumerate(labels):
            union = areas[u, list(dataset.categories).index(label.category)] + sizes[l] - inter[u, l]
            iou[u, l] = inter[u, l] / union if union else 0.0
    best = [max(range(len(labels)), key=lambda l: (iou[u, l], -l)) for u in range(U)]
    return SimpleNamespace(
        thresholds=np.array(thresholds),
        intersections=inter,
        areas=areas,
        sizes=sizes,
        iou=iou,
        labels=[labels[l].name for l in best],
        scores=np.array([iou[u, l] for u, l in enumerate(best)]),
    )


LABELS = [
    Label(2, "wheel", "part"),
    Label(1, "car", "object"),
    Label(4, "street", "scene"),
    Label(7, "door", "part"),
    Label(5, "dotted", "texture"),
    Label(6, "bus", "object"),
]
CATEGORIES = ["object", "part", "scene", "texture"]


def random_case(seed, images=40, units=5, shape=(4, 6), map_size=(8, 12), ties=False):
    """Activations (N, U, h, w) float32 and a data set with everything that the format allows."""
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(images, units, *shape)).astype(np.float32)
    if ties:
        maps = np.maximum(np.round(maps * 2), 0)
    everything = []
    for _ in range(images):
        each = {}
        if rng.random() < 0.7:
            each["object"] = rng.choice([0, 0, 1, 6, 2], (rng.integers(1, 3), *map_size))
        if rng.random() < 0.5:
            each["part"] = rng.choice([0, 0, 0, 2, 7], (rng.integers(1, 4), *map_size))
        if rng.random() < 0.5:
            each["scene"] = np.full((1, 1, 1), 4)
        if rng.random() < 0.3:
            each["texture"] = np.full((2, 1, 1), 5)
        everything.append(each)
    everything[0] = {"scene": np.full((1, 1, 1), 4)}
    return maps, InMemory(LABELS, CATEGORIES, map_size, everything)


@pytest.fixture
def small():
    """Builders of known dissections and the oracle."""
    return SimpleNamespace(
        Table=Table, InMemory=InMemory, slow=slow_dissection, case=random_case, LABELS=LABELS, CATEGORIES=CATEGORIES
    )


class Squares:
    """Images of noise, 32 pixels a side, with a bright square that is labelled: on the left or on the right."""

    labels = (Label(1, "left", "object"), Label(2, "right", "object"))
    categories, map_size = ("object",), (32, 32)

    def __init__(self, count=12):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 90, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
        self.planes = torch.zeros(count, 1, 32, 32, dtype=torch.int32)
        for number in range(count):
            left = 16 * (number % 2)
            self.planes[number, 0, 8:24, left : left + 16] = 1 + number % 2
        self.images += 150 * (self.planes > 0).to(torch.uint8)

    def more(self, count):
        return Squares(count)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return Sample(f"image-{index}", self.images[index], {"object": self.planes[index]})


@pytest.fixture
def squares():
    return Squares()
