"""Torchvision's networks by their names: `resnet50`, or `torchvision:resnet50`."""

import inspect
from typing import Any

import torchvision
from torch import nn

from dynamick.errors import InputError
from dynamick.networks.source import Source
from dynamick.preprocessing import Preprocessing

USUAL_SIZE = 224
AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
"""Heads only for training. Files often lack them."""


def knows(name: str) -> bool:
    """Whether torchvision has a network of that name."""
    return name in torchvision.models.list_models()


def build(name: str, kept: dict[str, Any]) -> Any:
    """A new network; nothing is downloaded.

    Raises:
        InputError: torchvision has none of that name.
    """
    if not knows(name):
        raise InputError(f"model torchvision:{name}: unknown; give one of torchvision.models.list_models()")
    taken = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    options: dict[str, Any] = {"weights_backbone": None} if "weights_backbone" in taken else {}
    if name in AUXILIARY:
        # Otherwise it warns that its initialisation takes long.
        options["init_weights"] = False
    if "outputs" in kept:
        options["num_classes"] = kept["outputs"]
    model: Any = torchvision.models.get_model(name, **options)
    if kept.get("transform_input"):
        model.transform_input = True
    return model


def published(name: str) -> tuple[nn.Module, list[str] | None]:
    """The network with torchvision's best weights, downloaded or from its cache, and their classes.

    Raises:
        InputError: it could not be downloaded.
    """
    try:
        model = torchvision.models.get_model(name, weights="DEFAULT")
    except OSError as error:
        raise InputError(f"--weights DEFAULT: {name}'s could not be downloaded ({error}); give a state dict's file") from error
    return model, torchvision.models.get_model_weights(name).DEFAULT.meta.get("categories")


def preprocessing(name: str, model: Any = None) -> Preprocessing:
    """How torchvision prepares a network's images; 224 pixels if it does not say. A transformer takes only its own size."""
    try:
        transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
        size = getattr(model, "image_size", transforms.crop_size[0])
        return Preprocessing(size, tuple(transforms.mean), tuple(transforms.std))
    except (AttributeError, TypeError, ValueError):
        return Preprocessing(size=USUAL_SIZE)


def keeps(model: Any) -> dict[str, Any]:
    """googlenet and inception_v3 shift their images only with the published weights."""
    return {"transform_input": True} if getattr(model, "transform_input", False) else {}


SOURCE = Source("torchvision", "a name of torchvision's, such as resnet50", build, knows, published, preprocessing, keeps)
