"""`dynamick train RECIPE --out DIR [--optim.lr 0.2 ...]`."""

import argparse
import re
import sys
from dataclasses import Field, fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any, get_args

# What is not listed below is a key of the recipe.
TAKES_SETTINGS = True
KINDS = {str: "text", bool: "true or false", int: "an integer", float: "a number"}


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
    _check_keys([each[2:].partition("=")[0] for each in args.settings if each.startswith("--")])
    # The file alone first, so that what is wrong in it is said of it.
    parse(["--config", str(path)], f"{path}: ")
    recipe = parse(["--config", str(path), *args.settings])
    rows = train(recipe, args.out, args.restart, progress=sys.stderr.isatty())
    last = rows[-1]
    print(f"{recipe.model}: top-1 {last['top1']:.2f} %, {last['weights_per_class']:.1f} weights per class; see {args.out}")


def _check_shape(path: Path) -> None:
    """Raise InputError unless a file holds YAML with a recipe's keys and sections; their values are checked later."""
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
        _check_keys([f"{name}.{key}" for key in given.get(name, {})], f"{path}: ")
    _check_keys([str(key) for key in given if key not in ("data", "optim")], f"{path}: ")


def _check_keys(given: list[str], where: str = "") -> None:
    """Raise InputError at the first that is no key of a recipe."""
    from dynamick.errors import InputError
    from dynamick.training.recipe import DataRecipe, OptimRecipe, Recipe

    # An option may be cut short, a file's key may not.
    fits = str.__eq__ if where else str.startswith
    sections: dict[str, Any] = {"data": DataRecipe, "optim": OptimRecipe}
    for name in given:
        there = ", ".join(field.name for field in fields(sections.get(name.partition(".")[0], Recipe)))
        if name in sections:
            raise InputError(f"--{name}: a section of a recipe; give --{name}.KEY, where KEY is one of {there}")
        if not any(fits(key, name) for key in _fields()):
            raise InputError(f"{where}{name}: no key of a recipe; known there are {there}")


def parse(argv: list[str], where: str = "") -> Any:
    """A recipe from `--config FILE --key value ...`.

    Args:
        where: what an error's message begins with.

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
        raise InputError(where + _reason(_one_line(str(error)))) from None
    found = Recipe(**{field.name: recipe[field.name] for field in fields(Recipe)})
    for name in _fields():
        # YAML's null passes for text.
        if reduce(getattr, name.split("."), found) is None and "null" not in _wanted(name):
            raise InputError(f"{where}{name}: null must be {_wanted(name)}")
    return found


def _reason(message: str) -> str:
    """What jsonargparse says, with the key first and what would be right last."""
    found = re.match(r'Parser key "([\w.]+)": .*?value: ?(.*)', message)
    if found is None or found[1] not in _fields():
        return f"{message}; see dynamick train --help"
    what = "is empty; it" if not found[2] else "null" if found[2] == "None" else found[2]
    return f"{found[1]}: {what} must be {_wanted(found[1])}"


def _wanted(name: str) -> str:
    """What a key's value must be."""
    kinds = get_args(kind := _fields()[name].type) or (kind,)
    return " or ".join(KINDS.get(each, "null") for each in kinds)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _keys() -> list[str]:
    return [f"--{name} (default: {field.default})" for name, field in _fields().items()]


def _fields(kind: Any = None, prefix: str = "") -> dict[str, "Field[Any]"]:
    """A recipe's keys, such as `optim.lr`, and what the dataclasses say of each."""
    from dynamick.training.recipe import Recipe

    found: dict[str, Field[Any]] = {}
    for field in fields(kind or Recipe):
        nested = field.default_factory
        found |= _fields(nested, f"{prefix}{field.name}.") if is_dataclass(nested) else {prefix + field.name: field}
    return found
