"""`dynamick train RECIPE --out DIR [--optim.lr 0.2 ...]`."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamick.settings import Key

# What argparse knows nothing of is refused here, with the keys that are near.
TAKES_SETTINGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from dynamick.settings import keys_of
    from dynamick.training.recipe import Recipe

    parser.usage = "dynamick train RECIPE --out DIR [--restart] [--KEY VALUE ...]"
    parser.allow_abbrev = False
    parser.add_argument("recipe", help="a YAML file, or a shipped recipe's name, such as cifar10-small")
    parser.add_argument("--out", required=True, type=Path, help="the run's folder; an interrupted run in it goes on")
    parser.add_argument("--restart", action="store_true", help="begin again, whatever is in the folder")
    group = parser.add_argument_group("keys of the recipe, to change them")
    for name, key in keys_of(Recipe).items():
        group.add_argument(f"--{name}", metavar=key.shown, default=argparse.SUPPRESS, help=_help(key))


def run(args: argparse.Namespace) -> None:
    from dynamick.settings import keys_of
    from dynamick.training import Recipe, train

    if args.settings:
        _refuse(args.settings)
    recipe = Recipe.read(args.recipe, {name: value for name, value in vars(args).items() if name in keys_of(Recipe)})
    if (said := recipe.data.how_split) is not None and int(os.environ.get("RANK", 0)) == 0:
        print(said, flush=True)
    rows = train(recipe, args.out, args.restart, progress=sys.stderr.isatty())
    last = rows[-1]
    print(f"{recipe.model}: top-1 {last['top1']:.2f} %, {last['weights_per_class']:.1f} weights per class; see {args.out}")


def _help(key: "Key") -> str:
    return f"{key.says} (default: {json.dumps(key.field.default).strip(chr(34))})".replace("%", "%%")


def _refuse(unknown: list[str]) -> None:
    from dynamick.errors import InputError
    from dynamick.settings import no_key
    from dynamick.training.recipe import Recipe

    name = next((each[2:].partition("=")[0] for each in unknown if each.startswith("--")), None)
    if name is None:
        raise InputError(f"unrecognized arguments: {' '.join(unknown)}; see dynamick train --help")
    raise no_key(Recipe, name, dashes="--")
