"""`dynamick train RECIPE --out DIR [--optim.lr 0.2 ...]`."""

import argparse
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

# What is not listed below is a key of the recipe.
TAKES_SETTINGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "dynamick train RECIPE --out DIR [--restart] [--KEY VALUE ...]"
    parser.add_argument("recipe", help="a YAML file, or a shipped recipe's name, such as cifar10-small")
    parser.add_argument("--out", required=True, type=Path, help="the run's folder; an interrupted run in it goes on")
    parser.add_argument("--restart", action="store_true", help="begin again, whatever is in the folder")
    parser.add_argument_group("keys of the recipe, to change them", "\n".join(_keys()))


def run(args: argparse.Namespace) -> None:
    from dynamick.training import train
    from dynamick.training.recipe import recipe_path

    path = recipe_path(args.recipe)
    _check_shape(path)
    recipe = parse(["--config", str(path), *args.settings])
    rows = train(recipe, args.out, args.restart, progress=sys.stderr.isatty())
    last = rows[-1]
    print(f"{recipe.model}: top-1 {last['top1']:.2f} %, {last['weights_per_class']:.1f} weights per class; see {args.out}")


def _check_shape(path: Path) -> None:
    """Raise InputError unless a file holds YAML with sections of the right form; their keys are checked later."""
    import yaml

    from dynamick.errors import InputError

    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: no YAML ({_one_line(str(error))}); give a recipe, such as the shipped cifar10-small"
        ) from None
    if not isinstance(given, dict):
        raise InputError(f"{path}: holds no keys; give a recipe, such as the shipped cifar10-small")
    for name in ("data", "optim"):
        if not isinstance(given.get(name, {}), dict):
            raise InputError(f"{path}: {name}: {given[name]!r} must be keys and values, indented below it")


def parse(argv: list[str]) -> Any:
    """A recipe from `--config FILE --key value ...`.

    Raises:
        InputError: an unknown key, or a value of the wrong type.
    """
    import jsonargparse

    from dynamick.errors import InputError
    from dynamick.training.recipe import Recipe

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Recipe)
    try:
        recipe = parser.instantiate(parser.parse_args(argv))
    except (jsonargparse.ArgumentError, TypeError, ValueError, OSError) as error:
        raise InputError(_one_line(str(error))) from None
    return Recipe(**{field.name: recipe[field.name] for field in fields(Recipe)})


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _keys() -> list[str]:
    from dynamick.training.recipe import Recipe

    def lines(kind: Any, prefix: str) -> list[str]:
        out = []
        for field in fields(kind):
            nested = field.default_factory
            if is_dataclass(nested):
                out += lines(nested, f"{prefix}{field.name}.")
            else:
                out.append(f"--{prefix}{field.name} (default: {field.default})")
        return out

    return lines(Recipe, "")
