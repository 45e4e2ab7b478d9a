"""A new figure, head, data source, network source or kernel is one new file: a toy of each, through its command."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dynamick

FIGURE = '''
"""A toy figure."""
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page, cells, table


def make(material: Material) -> Page:
    rows = [{"model": "toy", "seeds": material.seeds}]
    return Page(rows, ["it is a toy: holds"], ["A toy."], table(cells("model", "seeds"), rows))


FIGURE = PaperFigure("A toy figure", make)
'''
TRAINED_HEAD = '''
"""A toy head: nn.Linear without small weights."""
from torch import nn
from dynamick.models.heads.trained import TrainedHead


class Toy(nn.Linear):
    """Its class tells it from others."""


def drop_small(weight, lr, strength):
    weight.data[weight.abs() < 1e-3] = 0


HEAD = TrainedHead("toy", "toy", lambda inputs, classes, k, rule: Toy(inputs, classes), lambda layer: type(layer) is Toy,
                   label="toy", after_step=drop_small)
'''
COMPARED_HEAD = '''
"""A toy head to compare: the dense one."""
from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Fitted, dense


def fit(x, labels, classes, budgets, seed=0):
    yield Fitted(0, dense(x, labels, classes), 0.1)


COMPARED = (ComparedHead("toy", "a toy head", fit, "", 120),)
'''
DATA_SOURCE = '''
"""Toy images: a class is a colour."""
import torch
from dynamick.data.in_memory import ImageTensors
from dynamick.data.sources import Source


def _open(recipe, split):
    labels = torch.arange(40) % 2
    images = torch.zeros(40, 3, recipe.size, recipe.size, dtype=torch.uint8)
    images[torch.arange(40), labels] = 200
    return ImageTensors(images, labels, ["red", "green"])


SOURCE = Source("toy colours", _open, needs_root=False)
'''
NETWORK_SOURCE = '''
"""Toy networks: `toy:N` has N classes."""
from torch import nn
from dynamick.networks.source import Source


def build(name, kept):
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, int(name)))


SOURCE = Source("toy", "toy:5", build, knows=lambda name: False, own_weights=True)
'''
KERNEL = '''
"""A toy kernel: the reference under another name."""
from dynamick.ops.reference import route_reference
from dynamick.ops.registry import register


@register("toy", priority=-2, supports=lambda x, weight: x.device.type == "cpu")
def route_toy(x, weight, mask, k, rule):
    return route_reference(x, weight, mask, k, rule)
'''
TOYS = {
    "figures/paper/toy.py": FIGURE,
    "models/heads/toy.py": TRAINED_HEAD,
    "comparison/heads/toy.py": COMPARED_HEAD,
    "data/sources/toy.py": DATA_SOURCE,
    "networks/sources/toy.py": NETWORK_SOURCE,
    "ops/toy.py": KERNEL,
}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package and the toys in it, each a file that nothing else knows."""
    place = tmp_path_factory.mktemp("toys")
    shutil.copytree(Path(dynamick.__file__).parent, place / "dynamick", ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in TOYS.items():
        assert not (place / "dynamick" / name).exists()
        (place / "dynamick" / name).write_text(text)
    return place


def python(place: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run([sys.executable, *arguments], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(place: Path, *arguments: str) -> str:
    return python(place, "-m", "dynamick.cli", *arguments)


def test_a_figure(place: Path) -> None:
    assert "it is a toy: holds" in run(place, "reproduce", "toy", "--out", "figure", "--seeds", "2")
    assert (place / "figure" / "toy.md").read_text().startswith("# A toy figure")


def test_a_data_source_and_a_trained_head_and_a_compared_one(place: Path) -> None:
    small = ["--width", "4", "--stem", "cifar", "--data.kind", "toy", "--data.size", "8", "--data.pad", "0"]
    briefly = ["--optim.epochs", "1", "--optim.batch_size", "8"]
    run(place, "train", "scenes-small", "--model", "res8-toy", *small, *briefly, "--out", "run")
    assert "weights_per_class" in run(place, "evaluate", "run/last.safetensors")
    found = run(place, "compare", "--weights", "run/last.safetensors", "--heads", "toy", "--seeds", "1", "--out", "compared")
    assert "0 cells failed" in found
    assert "a toy head" in (place / "compared" / "table.md").read_text()


def test_a_network_source_and_a_kernel(place: Path) -> None:
    code = """
import torch, dynamick as dk
network = dk.open_network("toy:7")
assert (network.head, network.model(torch.rand(2, 3, 8, 8)).shape) == ("3", (2, 7))
x, weight = torch.rand(4, 6), torch.randn(3, 6)
ours = dk.functional.dynamic_linear(x, weight, k=2, implementation="toy")
assert torch.equal(ours, dk.functional.dynamic_linear(x, weight, k=2, implementation="reference"))
"""
    python(place, "-c", code)
    assert "toy" in run(place, "doctor")
