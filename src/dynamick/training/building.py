"""The network that a recipe trains: opened or made, with the head and the units that the recipe asks for."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dynamick import models
from dynamick.data.labelled import LabelledImages
from dynamick.data.recipe import USUAL_SIZE
from dynamick.errors import InputError, Note
from dynamick.models.heads import TrainedHead, head_of_layer, heads
from dynamick.networks import OpenNetwork, new_network, open_network
from dynamick.networks.layers import reorder
from dynamick.networks.opening import is_place
from dynamick.networks.preparing import preprocessing_that_counts
from dynamick.networks.running import logits_of, right_channels
from dynamick.nn import UnitLayer, add_units, find_place, unit_layer
from dynamick.preprocessing import Preprocessing
from dynamick.training.recipe import Recipe, check_head


@dataclass(frozen=True)
class Built:
    """A network to train, and the kind of its head."""

    model: Any
    kind: TrainedHead


def opened(recipe: Recipe) -> OpenNetwork | None:
    """The network that a recipe starts from; None for a new one of this project's, which is made for its images.

    Raises:
        InputError: it does not open.
    """
    if recipe.is_new_of_ours:
        return None
    if recipe.weights is None and not is_place(recipe.model):
        return replace(open_network(new_network(recipe.model)), name=recipe.model)
    return open_network(recipe.model, recipe.weights)


def completed(recipe: Recipe, network: OpenNetwork | None) -> Recipe:
    """The same recipe with the images' side: what it says itself, else the network's own, else what is usual."""
    usual = recipe.data.side if network is None else network.size or USUAL_SIZE
    return replace(recipe, data=replace(recipe.data, size=recipe.data.size or usual))


def build(recipe: Recipe, network: OpenNetwork | None, images: LabelledImages) -> Built:
    """The network that a recipe trains, for its training images.

    Args:
        recipe: a completed one.
        network: from `opened`; its model is changed.
        images: the training images.

    Raises:
        InputError: its classifier is not found, it does not say how its images are prepared, it does not take them, or it
            cannot have the head or the units.
    """
    if network is None:
        built = _new_of_ours(recipe, images)
    else:
        model: Any = network.model.float()
        model.preprocessing = _preprocessing(recipe, network)
        model.head_name = _head_name(network)
        built = Built(model, _give_head(model, recipe, network, images))
    two = example(built.model, images, recipe)
    if recipe.units is not None:
        _give_units(built, recipe, images, two)
    model = built.model
    model.classes = list(images.classes)
    check_head(recipe, built.kind)
    _check_k(recipe, model.get_submodule(models.head_name(model)))
    return replace(built, model=model.train())


def _new_of_ours(recipe: Recipe, images: LabelledImages) -> Built:
    """Images are normalised by the mean and deviation of the training images, if the recipe does not say by which."""
    mean, std = images.moments() or (None, None)
    prepared = preprocessing_that_counts(
        Preprocessing(recipe.data.side), None, None, recipe.data.mean or mean, recipe.data.std or std
    )
    model = models.create(
        recipe.model, len(images.classes), recipe.stem, recipe.width, prepared, classes=images.classes, rule=recipe.rule
    )
    return Built(model, models.head_of(model))


def _preprocessing(recipe: Recipe, network: OpenNetwork) -> Preprocessing:
    data = recipe.data
    if network.preprocessing is None and (data.mean is None or data.std is None):
        raise InputError("data.mean, data.std: the network does not say how its images are prepared; give both")
    prepared = preprocessing_that_counts(network.preprocessing, None, data.size, data.mean, data.std)
    assert prepared is not None
    return prepared


def _head_name(network: OpenNetwork) -> str:
    try:
        return network.need_head()
    except InputError as error:
        said = str(error).split(";")[0]
        raise InputError(f"{said}; only networks that end in a linear classifier are trained") from None


def _give_head(model: Any, recipe: Recipe, network: OpenNetwork, images: LabelledImages) -> TrainedHead:
    """Keep a network's classifier where it fits the recipe and the classes; else put a new one in its place."""
    old: Any = model.get_submodule(model.head_name)
    kind = head_of_layer(old) or heads()["dense"]
    k, rule = getattr(old, "k", None), getattr(old, "rule", recipe.rule)
    order = network.order_of(images.classes)
    if recipe.head is None and order is not None:
        reorder(old, order)
        return kind
    if recipe.head is not None:
        (kind, k), rule = models.parse_head(recipe.head), recipe.rule
    inputs, classes = old.weight.shape[1], len(images.classes)
    if not isinstance(old, nn.Conv2d):
        new = kind.layer(inputs, classes, k, rule)
    elif kind.name in ("dense", "l1"):
        new = nn.Conv2d(inputs, classes, 1, bias=old.bias is not None)
    else:
        raise InputError(f"head: {recipe.head} needs a linear classifier, and that of {network.name} is a 1x1 convolution")
    model.set_submodule(model.head_name, new)
    return kind


def _give_units(built: Built, recipe: Recipe, images: LabelledImages, two: Tensor) -> None:
    """Put a unit layer before the head, which is made anew for so many inputs."""
    model, units = built.model, recipe.units
    assert units is not None
    if (there := unit_layer(model)) is not None:
        has = there.conv.out_channels
        raise InputError(f"units: {units}, but the network has a layer of {has} learnt units; give null to train these on")
    name = models.head_name(model)
    old: Any = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise InputError(
            f"units: {units} need a linear classifier after the pooling, and the network's is a {type(old).__name__}"
        )
    place = find_place(model, name, two)
    if place.why is not None:
        warnings.warn(Note(f"units: {place.why}"), stacklevel=2)
    layer = UnitLayer(place.channels, units)
    head = built.kind.layer(units, len(images.classes), getattr(old, "k", None), recipe.rule)
    add_units(model, name, place, layer, head)


@torch.no_grad()
def example(model: Any, images: LabelledImages, recipe: Recipe) -> Tensor:
    """Two training images as the network takes them, (2, C, H, W).

    Raises:
        InputError: it does not take images of this size or these channels, or puts out no logits.
    """
    two: Tensor = model.preprocessing(images.take([0, len(images) - 1])[0].cpu())
    training = [module for module in model.modules() if module.training]
    try:
        with right_channels(model, two.shape[1]):
            shape = tuple(logits_of(model.eval()(two)).shape)
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"data.size: {two.shape[-1]} pixels do not fit {recipe.model} ({reason}); give its own size") from None
    finally:
        for module in training:
            module.training = True
    if len(shape) != 2 or shape[0] != 2:
        raise InputError(f"model {recipe.model}: puts out {shape} for two images; it must put out logits, (B, classes)")
    return two


def _check_k(recipe: Recipe, head: Any) -> None:
    """K, and the K that it starts from, against the head's inputs."""
    k, inputs = getattr(head, "k", None), head.weight.shape[1]
    if k is not None and k > inputs and recipe.units is not None:
        raise InputError(f"head: K of {k} is more than the {inputs} units; give a smaller K, or more units")
    if recipe.k_start is None:
        return
    if k is None:
        raise InputError(f"k_start: {recipe.k_start} is for a Dynamic-K head, which is not there; give a head such as d5a")
    if not k <= recipe.k_start <= inputs:
        raise InputError(f"k_start: {recipe.k_start} must be from K, {k}, to the {inputs} inputs of the head")
