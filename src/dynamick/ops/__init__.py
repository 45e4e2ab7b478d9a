"""The operators and their implementations. Every file here is imported, so adding an implementation is adding a file."""

import importlib
import pkgutil

from dynamick.ops.registry import Implementation, add, compute_dtype, implementations, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["Implementation", "add", "compute_dtype", "implementations", "register"]
