"""dynamick: interpretable convolutional networks by Dynamic-K routing.

The names that scripts use are here. Each is imported when it is first used.
"""

import importlib
from typing import Any

from dynamick.discovery import home_of
from dynamick.torchvision_shim import mend

# From here on, `import torchvision` works in any file, also where its build does not match PyTorch's.
mend()

__version__ = "0.1.0"

_HOME = {
    "DynamicConv2d": "dynamick.nn",
    "DynamicLinear": "dynamick.nn",
    "convert": "dynamick.nn",
    "revert": "dynamick.nn",
    "parameter_groups": "dynamick.optim",
    "KSchedule": "dynamick.optim",
    "prune": "dynamick.training",
    "UnitLayer": "dynamick.nn",
    "open_network": "dynamick.networks",
    "OpenNetwork": "dynamick.networks",
    "save": "dynamick.networks",
    "load": "dynamick.networks",
    "dissect": "dynamick.dissection",
    "Dissection": "dynamick.dissection",
    "explain": "dynamick.explanation",
    "Explanation": "dynamick.explanation",
    "trace": "dynamick.explanation",
    "Trace": "dynamick.explanation",
    "InputError": "dynamick.errors",
    "Preprocessing": "dynamick.preprocessing",
}
_MODULES = (
    "comparison",
    "data",
    "demo",
    "dissection",
    "explanation",
    "figures",
    "functional",
    "metrics",
    "models",
    "networks",
    "nn",
    "ops",
    "optim",
    "report",
    "retrofit",
    "training",
)

__all__ = [*_HOME, *_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"dynamick.{name}")
    return home_of(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
