"""Rooms that find their files themselves: a new file in a folder is all that a new head, source or figure takes."""

import importlib
import pkgutil
from types import ModuleType


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
