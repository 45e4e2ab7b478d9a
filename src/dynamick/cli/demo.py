"""`dynamick demo`: dense, L1 and Dynamic-5 side by side, from nothing to one page."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from dynamick.demo.running import RECIPES

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
    from dynamick import demo

    demo.run(demo.Demo(args.data, args.root, args.out, args.minutes, args.epochs, args.seed, args.restart))
