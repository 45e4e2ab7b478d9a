"""Settings as dataclasses: a key says its type, its default and one sentence; values come from YAML or from a command line."""

import difflib
import math
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

import yaml

from dynamick.errors import InputError
from dynamick.files import read_text

TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")
NEAR = 3
"""At most so many keys are proposed for an unknown one."""


def key(default: Any, says: str, choices: Sequence[str] | Callable[[], Sequence[str]] = ()) -> Any:
    """A field of a dataclass of settings.

    Args:
        default: its value where none is given.
        says: one sentence, for `--help`.
        choices: the values that there are, or what finds them.
    """
    return field(default=default, metadata={"says": says, "choices": choices})


@dataclass(frozen=True)
class Key:
    """One setting.

    Attributes:
        name: with its section, such as `optim.lr`.
        field: what the dataclass says of it.
    """

    name: str
    field: "Field[Any]"

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The types that its value may have."""
        kinds = get_args(self.field.type) if isinstance(self.field.type, UnionType) else (self.field.type,)
        # `null` is text too, so it is looked for first.
        return tuple(sorted(kinds, key=lambda kind: kind is not NoneType))

    @property
    def wanted(self) -> str:
        """What its value must be, in words."""
        return " or ".join(self._named(WORDS))

    @property
    def shown(self) -> str:
        """What its value must be, in short: for the lines of `--help`."""
        if self.choices:
            return f"{{{','.join(self.choices)}}}"
        return "|".join(self._named(SHORT))

    def _named(self, names: Mapping[Any, str]) -> list[str]:
        """What the types are called; null is said last."""
        return [names[kind] for kind in sorted(self.kinds, key=lambda kind: kind is NoneType)]

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values; empty if any value of its type is allowed."""
        given = self.field.metadata.get("choices", ())
        return tuple(given() if callable(given) else given)

    @property
    def says(self) -> str:
        """One sentence about it."""
        return str(self.field.metadata.get("says", ""))

    def read(self, given: Any, where: str = "") -> Any:
        """A value from YAML or a command line, in the key's own type.

        Raises:
            InputError: it is of another type; the message begins with `where`.
        """
        for kind in self.kinds:
            try:
                return READERS[kind](given)
            except ValueError:
                continue
        if str(given) in self.choices:
            # YAML reads the 32 of a precision as a number.
            return str(given)
        what = "is empty; it" if given == "" else "null" if given is None else _shown(given)
        raise InputError(f"{where}{self.name}: {what} must be {self.wanted}")


def keys_of(kind: Any, prefix: str = "") -> dict[str, Key]:
    """All keys of a dataclass by their names. Those of a nested dataclass have its name and a dot before theirs."""
    found: dict[str, Key] = {}
    for each in fields(kind):
        name, nested = prefix + each.name, each.default_factory
        found |= keys_of(nested, f"{name}.") if is_dataclass(nested) else {name: Key(name, each)}
    return found


def sections_of(kind: Any) -> dict[str, Any]:
    """The dataclasses in a dataclass, by their names."""
    return {each.name: each.default_factory for each in fields(kind) if is_dataclass(each.default_factory)}


def fill(kind: Any, given: Mapping[str, Any], where: str = "") -> Any:
    """A dataclass of settings from plain values, nested as in YAML; keys that are not given keep their defaults.

    Args:
        kind: the dataclass.
        given: values by key, sections as dictionaries.
        where: what an error's message begins with.

    Raises:
        InputError: an unknown key, a section that is not a dictionary, or a value of another type.
    """
    flat: dict[str, Any] = {}
    for name, value in given.items():
        if name not in sections_of(kind):
            flat[str(name)] = value
        elif isinstance(value, dict):
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            raise InputError(f"{where}{name}: {reprlib.repr(value)} must be keys and values, indented below it")
    return change(kind(), flat, where)


def change(settings: Any, given: Mapping[str, Any], where: str = "") -> Any:
    """The same settings, in place, with other values by their whole names, such as `optim.lr`.

    Raises:
        InputError: an unknown key, or a value of another type.
    """
    known = keys_of(type(settings))
    for name in given:
        if name not in known:
            raise no_key(type(settings), name, where)
    for name, value in given.items():
        *sections, last = name.split(".")
        inner = settings
        for section in sections:
            inner = getattr(inner, section)
        setattr(inner, last, known[name].read(value, where))
    return settings


def no_key(kind: Any, name: str, where: str = "", dashes: str = "") -> InputError:
    """The error for an unknown key. It says which keys there are, and which are near."""
    section, known = name.partition(".")[0], keys_of(kind)
    there = ", ".join(each.name for each in fields(sections_of(kind).get(section, kind)))
    if name in sections_of(kind):
        return InputError(f"{where}{dashes}{name}: a section of a recipe; give {dashes}{name}.KEY, where KEY is one of {there}")
    close = [each for each in known if each.startswith(name) or each.split(".")[-1] == name]
    close = close or difflib.get_close_matches(name, known, NEAR, cutoff=0.75)
    near = f"; nearest: {', '.join(close[:NEAR])}" if close else ""
    return InputError(f"{where}{_shown(name)}: no key of a recipe; known there are {there}{near}")


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The keys and values in a YAML file. Nothing in it is run, and it names no types.

    Args:
        path: the file, in UTF-8.
        what: what it should be, for messages.

    Raises:
        InputError: it cannot be read, or holds no keys and values.
    """
    try:
        given = yaml.safe_load(read_text(path))
    except (OSError, yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML lets some of Python's own errors through, such as that of a number of 5000 digits.
        raise InputError(f"{path}: no YAML ({' '.join(str(error).split())}); give {what}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path}: holds no keys; give {what}")
    return given


def _null(given: Any) -> None:
    if given not in (None, "null"):
        raise ValueError


def _boolean(given: Any) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given).lower()
    if not isinstance(given, str) or word not in TRUE + FALSE:
        raise ValueError
    return word in TRUE


def _integer(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int | str) or not re.fullmatch(r"[+-]?[0-9]{1,40}", str(given).strip()):
        raise ValueError
    return int(given)


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError
    try:
        value = float(given)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(value):
        raise ValueError
    return value


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError
    return given


def _numbers(given: Any) -> tuple[float, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, list | tuple) or not parts:
        raise ValueError
    return tuple(_number(each) for each in parts)


def _shown(given: Any) -> str:
    """A value for a message of one line."""
    plain = isinstance(given, str | int | float) and len(str(given)) < 100 and str(given).isprintable()
    return str(given) if plain else reprlib.repr(given)


READERS: dict[Any, Callable[[Any], Any]] = {
    NoneType: _null,
    bool: _boolean,
    int: _integer,
    float: _number,
    str: _text,
    tuple[float, ...]: _numbers,
}
SHORT: dict[Any, str] = {NoneType: "null", bool: "{true,false}", int: "INTEGER", float: "NUMBER", str: "TEXT"}
SHORT[tuple[float, ...]] = "NUMBER,..."
WORDS: dict[Any, str] = {NoneType: "null", bool: "true or false", int: "an integer", float: "a number", str: "text"}
WORDS[tuple[float, ...]] = "numbers"
