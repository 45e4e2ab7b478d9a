"""What a training minimises: cross entropy, or binary cross entropy of several labels an image; beside it a teacher."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.data.labelled import LabelledImages
from dynamick.errors import InputError
from dynamick.networks import open_network
from dynamick.networks.running import logits_of
from dynamick.training.recipe import Recipe

ONE_CLASS, SEVERAL_LABELS = ("top1", "top5"), ("map",)
"""What is measured of images of one class each, and of images with several labels or none."""


@dataclass
class Teacher:
    """A trained network whose probabilities are learnt from.

    Attributes:
        model: in evaluation mode, without gradients; it prepares images by its own `preprocessing`.
        order: the place of each class in its outputs.
        share: its part of the loss, 0..1.
    """

    model: Any
    order: list[int]
    share: float

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or 0..1, to logits (B, classes) in the order of the classes."""
        self.model.to(images.device)
        return logits_of(self.model(self.model.preprocessing(images)))[:, self.order].float()


@dataclass
class Loss:
    """The loss of logits (B, classes) and targets: int64 (B,), float (B, classes) of mixed classes, or 0 and 1 of each class.

    Attributes:
        smoothing: of labels.
        weights: of the classes, shape (classes,); of several labels an image, of each class's ones. None weighs all alike.
        several: an image has several labels, or none.
        teacher: learnt from too.
    """

    smoothing: float = 0.0
    weights: Tensor | None = None
    several: bool = False
    teacher: Teacher | None = None

    def __call__(self, logits: Tensor, targets: Tensor, images: Tensor) -> Tensor:
        """The loss that is minimised, scalar; the images, uint8 or 0..1, are the teacher's."""
        weights = None if self.weights is None else self.weights.to(logits.device)
        if self.several:
            loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), pos_weight=weights)
        else:
            loss = F.cross_entropy(logits, targets, weights, label_smoothing=self.smoothing)
        if self.teacher is None:
            return loss
        said = self.teacher(images)
        if self.several:
            apart = F.binary_cross_entropy_with_logits(logits, said.sigmoid())
        else:
            apart = F.kl_div(logits.log_softmax(1), said.softmax(1), reduction="batchmean")
        return (1 - self.teacher.share) * loss + self.teacher.share * apart

    def plain(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The same without smoothing, weights and teacher: what is measured."""
        if self.several:
            return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
        return F.cross_entropy(logits, targets)


def loss_of(recipe: Recipe, images: LabelledImages) -> Loss:
    """The loss that a recipe says, for its training images.

    Raises:
        InputError: the teacher does not open, or has other classes; or an option does not go with several labels an image.
    """
    optim, several = recipe.optim, images.labels.ndim == 2
    for name, value in (("optim.label_smoothing", optim.label_smoothing), ("data.mixup", recipe.data.mixup)):
        if several and value:
            raise InputError(f"{name}: {value} is for images of one class each, and these have several labels; give 0")
    if optim.stop_after is not None and optim.stop_metric in (ONE_CLASS if several else SEVERAL_LABELS):
        are = "images with several labels" if optim.stop_metric in SEVERAL_LABELS else "images of one class each"
        raise InputError(f"optim.stop_metric: {optim.stop_metric} is for {are}; give another, such as val_loss")
    weights = class_weights(images) if optim.class_weights == "balanced" else None
    teacher = None if recipe.teacher is None else _teacher(recipe.teacher, recipe, images)
    return Loss(optim.label_smoothing, weights, several, teacher)


def class_weights(images: LabelledImages) -> Tensor:
    """Float32, shape (classes,): N / (classes * images of the class); of several labels, images without over images with it."""
    labels, classes = images.labels.cpu(), len(images.classes)
    if labels.ndim == 2:
        ones = labels.sum(0).float()
        return (len(labels) - ones) / ones.clamp(min=1)
    return len(labels) / (classes * torch.bincount(labels, minlength=classes).clamp(min=1).float())


def _teacher(spec: str, recipe: Recipe, images: LabelledImages) -> Teacher:
    network = open_network(spec, recipe.teacher_weights)
    if network.preprocessing is None:
        raise InputError(f"teacher: {spec} does not say how its images are prepared; give another")
    order = network.order_of(images.classes)
    if order is None:
        has = f"{len(network.classes)} classes ({', '.join(network.classes[:3])}, ...)"
        wanted = "which are not those of the images; give one that was trained for these"
        raise InputError(f"teacher: {spec} has {has}, {wanted}")
    return Teacher(network.model.requires_grad_(False), order, recipe.teacher_share)
