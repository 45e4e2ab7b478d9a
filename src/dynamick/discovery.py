"""Rooms that find their files themselves, so that a new file is all that a new head takes; and names imported when used."""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any


def names_in(package: str) -> list[str]:
    """The names of a package's modules, in alphabetical order; none is imported.

    Args:
        package: its dotted name, such as `dynamick.models.heads`. Folders that were added to its `__path__` count too.
    """
    path = importlib.import_module(package).__path__
    return sorted(each.name for each in pkgutil.iter_modules(path))


def modules_in(package: str) -> list[ModuleType]:
    """The modules of a package, imported, in the order of `names_in`."""
    return [importlib.import_module(f"{package}.{name}") for name in names_in(package)]


def home_of(package: str, homes: Mapping[str, str], name: str) -> Any:
    """A name of a package that is imported when it is first used: what the package's `__getattr__` gives.

    Args:
        package: its dotted name.
        homes: the module of each name.
        name: what is asked for.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in homes:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)
