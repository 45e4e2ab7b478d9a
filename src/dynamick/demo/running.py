"""Trains the demo's networks and writes its page."""

import os
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynamick import networks
from dynamick.data import sources
from dynamick.demo import budget
from dynamick.demo.budget import counted
from dynamick.demo.scenes import with_truth
from dynamick.errors import InputError
from dynamick.files import why_no_folder
from dynamick.report.training import Comparison, Run, table, write
from dynamick.training import Images, Recipe, train

HEADS = {"dense": ("Dense", "res8"), "l1": ("L1", "res8-l1"), "dynamic-5": ("Dynamic-5", "res8-d5a")}
"""The folder of each training, its title, and its model."""
RECIPES = {"scenes": "scenes-small", "cifar10": "cifar10-small"}
L1 = {"scenes": 0.01, "cifar10": 0.1}
"""The strengths that docs/results found to be the largest within half a point of the dense head."""
PAGE = "report.html"


@dataclass(frozen=True)
class Demo:
    """What a demo is made of.

    Attributes:
        data: `scenes` (generated) or `cifar10`.
        root: the folder that holds cifar-10-batches-py.
        out: where the trainings and the page go; an interrupted demo in it goes on.
        minutes: a budget for all trainings; None trains as long as the recipe says.
        epochs: of each training; None takes what the budget allows, else the recipe's.
        seed: of weights, order and augmentation.
        restart: begin again, whatever is in `out`.

    >>> dk.demo.Demo(minutes=6).recipe("dynamic-5").model
    'res8-d5a'
    """

    data: str = "scenes"
    root: str = "data"
    out: Path = Path("runs/demo")
    minutes: float | None = None
    epochs: int | None = None
    seed: int = 0
    restart: bool = False

    def recipe(self, name: str) -> Recipe:
        """The recipe of one of `HEADS`."""
        settings: dict[str, Any] = {"model": HEADS[name][1], "seed": self.seed, "data.root": self.root}
        if name == "l1":
            settings["optim.l1"] = L1[self.data]
        recipe = Recipe.read(RECIPES[self.data], settings)
        recipe.check()
        return recipe

    def command(self, epochs: int | None) -> str:
        """The command that trains the same again on any machine. A budget is given as its number of epochs."""
        root = f" --root {shlex.quote(self.root)}" if self.data == "cifar10" else ""
        return f"dynamick demo --data {self.data}{root} --seed {self.seed}" + (f" --epochs {epochs}" if epochs else "")

    def epochs_of(self, recipe: Recipe, images: Images) -> int:
        """As asked for, else the recipe's, or as many as the budget allows here. An interrupted demo keeps its number."""
        if self.epochs is not None:
            return self.epochs
        if not self.restart and (kept := budget.begun(self.out / "dense")) is not None:
            print(f"{self.out}: goes on with the trainings there, of {counted(kept)}; --restart begins again")
            return kept
        return recipe.optim.epochs if self.minutes is None else budget.fitting(recipe, images, self.minutes, len(HEADS))


def run(demo: Demo) -> Path:
    """Train what is missing, compare the networks, and write the page; what was interrupted goes on.

    Returns:
        The page's file.

    Raises:
        InputError: an impossible budget, missing data, or a folder that holds other trainings.
        OSError: something could not be written.

    >>> dk.demo.run(dk.demo.Demo("cifar10", root="nowhere"))  # without data; Demo() generates its own
    Traceback (most recent call last):
    dynamick.errors.InputError: ...
    """
    budget.check(demo.minutes, demo.epochs)
    if (why := why_no_folder(demo.out)) is not None:
        raise InputError(f"--out {demo.out}: {why}; give a folder of your own")
    recipes = {name: demo.recipe(name) for name in HEADS}
    images = Images(recipes["dense"])
    usual, epochs = recipes["dense"].optim.epochs, demo.epochs_of(recipes["dense"], images)
    runs = []
    for number, (name, recipe) in enumerate(recipes.items(), 1):
        recipe.optim.epochs = epochs
        print(f"\ntraining {number} of {len(recipes)}: {HEADS[name][0]} ({recipe.model}), {counted(epochs)}", flush=True)
        runs.append(_train(demo, name, recipe, images))
    comparison = Comparison(
        title="Dense, L1 and Dynamic-5",
        dataset=_describe(demo.data, images),
        classes=images.train.classes,
        runs=runs,
        command=demo.command(None if epochs == usual else epochs),
        machine=_machine(),
    )
    if demo.data == "scenes":
        comparison = with_truth(comparison, demo.out)
    write(comparison, demo.out / PAGE)
    link = comparison.decision
    also = "" if link is None else f", and the decisions: {demo.out / link.page}"
    print(f"\n{table(comparison)}\nThe report: {demo.out / PAGE}{also}")
    return demo.out / PAGE


def _train(demo: Demo, name: str, recipe: Recipe, images: Images) -> Run:
    rows = train(recipe, demo.out / name, demo.restart, images, progress=sys.stderr.isatty())
    model: Any = networks.load(demo.out / name / "last.safetensors")
    last = rows[-1]
    return Run(
        name=recipe.model,
        title=HEADS[name][0],
        accuracy=last["top1"],
        weights_per_class=last["weights_per_class"],
        weights_per_class_max=int(last["weights_per_class_max"]),
        routed=last["routed_units"],
        seconds=sum(row["seconds"] for row in rows),
        history={key: [row[key] for row in rows] for key in last},
        head_weight=model.fc.weight.detach().numpy(),
    )


def _describe(data: str, images: Images) -> str:
    sizes = f"{len(images.train):,} training and {len(images.val):,} validation images"
    return f"{sources.find(data).title}: {sizes} of {len(images.train.classes)} classes"


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    threads = torch.get_num_threads()
    return f"{device}, {threads} thread{'s' if threads > 1 else ''}, PyTorch {torch.__version__}"
