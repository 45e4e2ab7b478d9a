"""`dynamick demo`: dense, L1 and Dynamic-5 side by side, from nothing to one page."""

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamick.data import sources

if TYPE_CHECKING:
    from dynamick.report.training import Run
    from dynamick.training import Images, Recipe

HEADS = {"dense": ("Dense", "res8"), "l1": ("L1", "res8-l1"), "dynamic-5": ("Dynamic-5", "res8-d5a")}
RECIPES = {"scenes": "scenes-small", "cifar10": "cifar10-small"}
# The strengths that docs/results found to be the largest within half a point of the dense head.
L1 = {"scenes": 0.01, "cifar10": 0.1}
TIMED_STEPS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", choices=RECIPES, default="scenes", help="generated scenes (default), or CIFAR-10 in --root")
    parser.add_argument("--root", default="data", help="the folder that holds cifar-10-batches-py (default: data)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/demo"), help="where runs and report.html go (default: runs/demo)"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="a budget for all trainings; fewer epochs where they would take longer")
    length.add_argument("--epochs", type=int, help="epochs of each training (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (default: 0)")
    parser.add_argument("--restart", action="store_true", help="begin again instead of going on with what is in --out")


def run(args: argparse.Namespace) -> None:
    from dynamick.errors import InputError
    from dynamick.report.training import Comparison, table, write
    from dynamick.training import Images

    if args.minutes is not None and not 0 < args.minutes < math.inf:
        raise InputError(f"--minutes: {args.minutes} must be a number above 0")
    if args.epochs is not None and args.epochs < 1:
        raise InputError(f"--epochs: {args.epochs} must be an integer from 1 up")
    recipes = {name: _recipe(args, name) for name in HEADS}
    images = Images(recipes["dense"])
    usual, epochs = recipes["dense"].optim.epochs, _epochs(args, recipes["dense"], images)
    runs = []
    for name, recipe in recipes.items():
        recipe.optim.epochs = epochs
        print(f"\n{HEADS[name][0]} ({recipe.model}), {_counted(epochs)}", flush=True)
        runs.append(_train(args, name, recipe, images))
    comparison = Comparison(
        title="Dense, L1 and Dynamic-5",
        dataset=_describe(args.data, images),
        classes=images.train.classes,
        runs=runs,
        command=_command(args, None if epochs == usual else epochs),
        machine=_machine(),
    )
    if args.data == "scenes":
        from dynamick.cli.demo_scenes import with_truth

        comparison = with_truth(comparison, args.out)
    write(comparison, args.out / "report.html")
    print(f"\n{table(comparison)}\nThe page: {args.out / 'report.html'}")


def _recipe(args: argparse.Namespace, name: str) -> "Recipe":
    from dynamick.training import Recipe

    settings: dict[str, Any] = {"model": HEADS[name][1], "seed": args.seed, "data.root": args.root}
    if name == "l1":
        settings["optim.l1"] = L1[args.data]
    recipe = Recipe.read(RECIPES[args.data], settings)
    recipe.check()
    return recipe


def _command(args: argparse.Namespace, epochs: int | None) -> str:
    """What trains the same anew, on any machine: a budget is told as the epochs that it held."""
    import shlex

    root = f" --root {shlex.quote(args.root)}" if sources.find(args.data).needs_root else ""
    return f"dynamick demo --data {args.data}{root} --seed {args.seed}" + (f" --epochs {epochs}" if epochs else "")


def _counted(epochs: int) -> str:
    return f"{epochs} epoch{'s' if epochs > 1 else ''}"


def _epochs(args: argparse.Namespace, recipe: "Recipe", images: "Images") -> int:
    """As asked for, else the recipe's, or as many as the budget holds here; an interrupted demo keeps its number."""
    import yaml

    from dynamick.durations import in_words
    from dynamick.errors import InputError

    if args.epochs is not None:
        return int(args.epochs)
    config = args.out / "dense" / "config.yaml"
    if config.exists() and not args.restart:
        try:
            kept = int(yaml.safe_load(config.read_text())["optim"]["epochs"])
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError):
            raise InputError(f"{config}: is damaged, it holds no recipe; --restart begins again") from None
        print(f"{args.out}: goes on with the trainings there, of {_counted(kept)}; --restart begins again")
        return kept
    if args.minutes is None:
        return recipe.optim.epochs
    steps = len(images.train) // recipe.optim.batch_size
    seconds = len(HEADS) * steps * _seconds_a_step(recipe, images)
    fitting = int(60 * args.minutes / seconds)
    if fitting < 1:
        print(f"--minutes {args.minutes:g} holds not even one epoch a head here; one is done, in {in_words(seconds)}")
    elif fitting < recipe.optim.epochs:
        print(f"--minutes {args.minutes:g} holds {_counted(fitting)} a head here, of the recipe's {recipe.optim.epochs}")
    return max(1, min(recipe.optim.epochs, fitting))


def _seconds_a_step(recipe: "Recipe", images: "Images") -> float:
    """Seconds of one training step on this machine, and a fifth more for validation and all else."""
    import torch

    from dynamick.training import Classifier
    from dynamick.training.module import parameter_groups
    from dynamick.training.run import autocast, build

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = Classifier(build(recipe, images), recipe.optim, recipe.channels_last).to(device).train()
    optimizer = torch.optim.SGD(parameter_groups(module.model, recipe.optim), lr=1e-3)
    began = 0.0
    for step, (batch, labels) in enumerate(images.train.training_batches(recipe.optim.batch_size)):
        if step == 1:
            began = time.monotonic()
        with autocast(recipe.precision, device):
            loss = torch.nn.functional.cross_entropy(module(batch.to(device)).float(), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        if step == TIMED_STEPS:
            break
    return 1.2 * (time.monotonic() - began) / max(1, step)


def _train(args: argparse.Namespace, name: str, recipe: "Recipe", images: "Images") -> "Run":
    import sys

    from dynamick import checkpoint
    from dynamick.report.training import Run
    from dynamick.training import train

    rows = train(recipe, args.out / name, args.restart, images, progress=sys.stderr.isatty())
    model: Any = checkpoint.load(args.out / name / "last.safetensors")
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


def _describe(data: str, images: "Images") -> str:
    name = sources.find(data).title
    sizes = f"{len(images.train):,} training and {len(images.val):,} validation images"
    return f"{name}: {sizes} of {len(images.train.classes)} classes"


def _machine() -> str:
    import os
    import platform

    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
