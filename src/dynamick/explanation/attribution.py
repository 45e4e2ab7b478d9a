"""Adapters to other explanation libraries: Captum's methods as units' attributions, and a heatmap function for Quantus."""

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.explanation.maps import NONLINEAR
from dynamick.explanation.pixels import enlarge
from dynamick.explanation.reading import Reader, evaluating, heat

METHODS = ("grad-cam", "integrated gradients")


def captum_attr() -> Any:
    """Captum's `attr` module.

    Raises:
        InputError: Captum is not installed.
    """
    try:
        return importlib.import_module("captum.attr")
    except ImportError:
        raise InputError("captum is not installed; install it with: pip install 'dynamick[captum]'") from None


def unit_attributions(reader: Reader, images: Tensor, classes_B: Tensor, method: str, steps: int = 20) -> Tensor:
    """The attributions of one of Captum's methods to the head's inputs, for each image's own class, (B, M).

    `grad-cam` weighs the maps before the pooling by their mean gradients and sums each over the image. `integrated gradients`
    goes from the head's inputs of a black image to those of the image, in `steps` steps.

    Raises:
        InputError: Captum is not installed, the method is unknown, or Grad-CAM finds no maps before the head.
    """
    attr = captum_attr()
    where, prepared = reader.maps(images), reader.prepare(images)
    target = classes_B.to(prepared.device)
    with evaluating(reader.model), torch.enable_grad():
        if method == "grad-cam":
            if where.no_grad_cam is not None:
                raise InputError(f"grad-cam: {where.no_grad_cam}")
            assert where.module is not None
            layer = reader.model.get_submodule(where.module)
            maps = attr.LayerGradCam(reader.logits, layer).attribute(
                prepared, target, attribute_to_layer_input=where.side == "input", attr_dim_summation=False
            )
            return maps.detach().sum(dim=(2, 3))
        if method == "integrated gradients":
            black = reader.prepare(torch.zeros_like(images[:1]))
            integrated = attr.LayerIntegratedGradients(reader.logits, reader.head.module).attribute(
                prepared, black, target, n_steps=steps, internal_batch_size=len(images), attribute_to_layer_input=True
            )
            given = integrated[0] if isinstance(integrated, tuple) else integrated
            return given.detach().flatten(1)
    raise InputError(f"method: {method!r} is unknown; give {' or '.join(METHODS)}")


def quantus_heatmap(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, **_: Any) -> np.ndarray:
    """An `explain_func` for Quantus: where each image's class gets its logit from, (B, 1, H, W).

    Args:
        model: any model that `explain` splits over the image.
        inputs: prepared images (B, 3, H, W).
        targets: one class each, (B,).

    Raises:
        InputError: the model's contributions have no split over the image.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> prepared = model.preprocessing(scenes.images).numpy()
    >>> dk.explanation.quantus_heatmap(model, prepared, scenes.labels.numpy()).shape
    (4, 1, 32, 32)
    """
    reader = Reader(model, preprocess=None)
    images = torch.as_tensor(np.asarray(inputs), dtype=reader.head.weight.dtype)
    classes_B = torch.as_tensor(np.asarray(targets), dtype=torch.int64).to(reader.head.weight.device)
    maps = heat(reader.head, reader.read(images), classes_B)
    if maps is None:
        raise InputError(f"quantus: {NONLINEAR}")
    return enlarge(maps, (images.shape[2], images.shape[3]))[:, None].cpu().numpy()
