"""Rooms that find their files themselves: a new file in a folder is all that a new head, source or figure takes."""

import importlib
import pkgutil
from types import ModuleType


def modules_in(package: str) -> list[ModuleType]:
    """The modules of a package, imported, in the order of their names.

    Args:
        package: its dotted name, such as `dynamick.models.heads`. Folders that were added to its `__path__` count too.
    """
    path = importlib.import_module(package).__path__
    return [importlib.import_module(f"{package}.{each.name}") for each in sorted(pkgutil.iter_modules(path), key=_name)]


def _name(module: pkgutil.ModuleInfo) -> str:
    return module.name
