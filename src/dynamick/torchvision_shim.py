"""Importing torchvision works also where its compiled operators do not match the installed PyTorch.

torchvision's wheels are built against one build of PyTorch; beside another (a CPU build, say) its operator library does
not load, and its Python part then fails to register the missing `torchvision::nms` and `qnms`. Declaring their schemas is
enough: this project uses only torchvision's data sets, transforms and models, none of which calls the compiled operators.

`import dynamick` puts a finder into place, which costs nothing until somebody imports torchvision: this project, a library
such as torchmetrics, or a user's own file.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_KEPT: list[Any] = []
"""Declarations end with their object, so it is kept for the life of the process."""


class Mender(MetaPathFinder):
    """Finds torchvision as the others do, and runs it again with the operators declared if they are missing."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of torchvision, mended; None for all else, which the other finders find."""
        if name != "torchvision":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                loader: Any = spec.loader
                loader.exec_module = _mended(loader.exec_module)
                return spec
        return None


def mend() -> None:
    """Put the finder into place, once."""
    if not any(isinstance(finder, Mender) for finder in sys.meta_path):
        sys.meta_path.insert(0, Mender())


def _mended(run: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def run_mended(module: ModuleType) -> None:
        try:
            run(module)
        except RuntimeError:
            torch = importlib.import_module("torch")
            if hasattr(torch.ops.torchvision, "nms"):
                raise
            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _KEPT.append(library)
            run(module)

    return run_mended


def __getattr__(name: str) -> Any:
    """`from dynamick.torchvision_shim import torchvision` is an older way to say `import torchvision`."""
    if name == "torchvision":
        return importlib.import_module(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
