"""Reports: plain dataclasses in, one self-contained HTML page out that opens offline and asks for nothing from outside.

A report's data can be made without loading what draws and fills the page; each name is imported when it is first used.
"""

import importlib
from typing import Any

from dynamick.discovery import home_of

_HOME = dict.fromkeys(("environment", "render", "save"), "dynamick.report.writing")
_MODULES = ("explanation", "figures", "study", "thumbnails", "training")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"dynamick.report.{name}")
    return home_of(__name__, _HOME, name)
