"""`dynamick evaluate WEIGHTS [--data KIND --root DIR]`: the file alone says what the model is and on what it was trained."""

import argparse
from pathlib import Path

from dynamick.data import sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", type=Path, help="a safetensors file that a training wrote")
    parser.add_argument("--data", choices=sources.names(), help="another kind of data than it was trained on")
    parser.add_argument("--root", help="the data's folder")
    parser.add_argument("--out", type=Path, help="write the figures as JSON too")


def run(args: argparse.Namespace) -> None:
    from dynamick.errors import InputError
    from dynamick.files import write_json
    from dynamick.networks import open_network
    from dynamick.training.evaluate import evaluate

    if args.out and (args.out.is_dir() or not args.out.parent.is_dir()):
        raise InputError(f"--out {args.out}: give a file's name, in a folder that exists")
    network = open_network(args.weights)
    network.need_preprocessing()
    images = network.images(args.data, args.root)
    figures = evaluate(network.model, images)
    if images.how_split is not None:
        print(images.how_split)
    for name, value in figures.items():
        print(f"{name:22} {value:.4g}" if abs(value) < 10 else f"{name:22} {value:.2f}")
    if args.out:
        write_json(args.out, figures)
