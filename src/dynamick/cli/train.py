"""`dynamick train RECIPE --out DIR [--optim.lr 0.2 ...]`."""

import argparse
import json
import sys
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamick.settings import Key
    from dynamick.training.recipe import Recipe

# What argparse knows nothing of is refused here, with the keys that are near.
TAKES_SETTINGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from dynamick.settings import keys_of
    from dynamick.training.folder import TRACKED
    from dynamick.training.recipe import Recipe

    parser.usage = "dynamick train RECIPE --out DIR [--restart] [--logger NAME] [--KEY VALUE ...]"
    parser.allow_abbrev = False
    parser.add_argument("recipe", help="a YAML file, or a shipped recipe's name, such as cifar10-small")
    parser.add_argument("--out", required=True, type=Path, help="the run's folder; an interrupted run in it goes on")
    parser.add_argument("--restart", action="store_true", help="begin again, whatever is in the folder")
    parser.add_argument(
        "--logger",
        default="tensorboard",
        choices=TRACKED,
        help="the experiment tracker, where its package is installed; it writes into the run's folder (default: tensorboard)",
    )
    group = parser.add_argument_group("keys of the recipe, to change them")
    for name, key in keys_of(Recipe).items():
        group.add_argument(f"--{name}", metavar=key.shown, default=argparse.SUPPRESS, help=_help(key))
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this; RECIPE --help shows that recipe's values")


class _Help(argparse.Action):
    """Shows the keys with the values that they have in the recipe, if one is named before."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        from dynamick.settings import keys_of
        from dynamick.training.recipe import Recipe

        if namespace.recipe is not None:
            recipe, keys = Recipe.read(namespace.recipe), keys_of(Recipe)
            for action in parser._actions:
                if action.dest in keys:
                    action.help = _help(keys[action.dest], recipe)
        parser.print_help()
        parser.exit()


def run(args: argparse.Namespace) -> None:
    from dynamick.processes import first
    from dynamick.settings import keys_of
    from dynamick.training import Recipe, train
    from dynamick.training.callbacks import score_of

    if args.settings:
        _refuse(args.settings)
    recipe = Recipe.read(args.recipe, {name: value for name, value in vars(args).items() if name in keys_of(Recipe)})
    if (said := recipe.data.how_split) is not None and first():
        print(said, flush=True)
    if first():
        epochs = recipe.optim.epochs
        print(
            f"training {recipe.model}: {epochs} epoch{'s' if epochs > 1 else ''}, a line after each; into {args.out}",
            flush=True,
        )
    rows = train(recipe, args.out, args.restart, progress=sys.stderr.isatty(), logger=args.logger)
    last, (what, score) = rows[-1], score_of(rows[-1])
    print(f"{recipe.model}: {what} {score:.2f} %, {last['weights_per_class']:.1f} weights per class; see {args.out}")


def _help(key: "Key", recipe: "Recipe | None" = None) -> str:
    default = f"default: {_plain(key.field.default)}"
    if recipe is not None:
        value: Any = reduce(getattr, key.name.split("."), recipe)
        default = f"here: {_plain(value)}{'' if value == key.field.default else f'; {default}'}"
    return f"{key.says} ({default})".replace("%", "%%")


def _plain(value: Any) -> str:
    return json.dumps(value).strip('"')


def _refuse(unknown: list[str]) -> None:
    from dynamick.errors import InputError
    from dynamick.settings import no_key
    from dynamick.training.recipe import Recipe

    name = next((each[2:].partition("=")[0] for each in unknown if each.startswith("--")), None)
    if name is None:
        raise InputError(f"unrecognized arguments: {' '.join(unknown)}; see dynamick train --help")
    raise no_key(Recipe, name, dashes="--")
