"""How long a training takes here, from the time of some of its steps."""

import time
from typing import Any

import torch
import torch.nn.functional as F

from dynamick import models
from dynamick.models import Network
from dynamick.preprocessing import Preprocessing
from dynamick.training.module import Classifier
from dynamick.training.optimising import make_optimizer
from dynamick.training.recipe import Recipe
from dynamick.training.run import autocast

TIMED = 5
"""How many steps are timed."""


def untrained(recipe: Recipe, classes: int = 2) -> Network:
    """A network of a recipe's layers; its weights are random."""
    return models.create(recipe.model, classes, recipe.stem, recipe.width, Preprocessing(recipe.data.side))


def step_seconds(recipe: Recipe, classes: int) -> float:
    """Seconds of a training step of a recipe on this machine, on images of noise."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = Classifier(untrained(recipe, classes), recipe.optim, recipe.channels_last).to(device).train()
    optimizer = make_optimizer(module.model, recipe.optim)
    size, side = recipe.optim.batch_size, recipe.data.side
    images = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, device=device)
    labels = torch.arange(size, device=device) % classes
    began = 0.0
    for step in range(1 + TIMED):
        # The first one warms up.
        if step == 1:
            began = time.monotonic()
        _step(module, optimizer, images, labels, recipe.precision)
    return (time.monotonic() - began) / TIMED


def _step(module: Classifier, optimizer: Any, images: torch.Tensor, labels: torch.Tensor, precision: str) -> None:
    with autocast(precision, images.device):
        loss = F.cross_entropy(module(images).float(), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    # Waits for the device.
    loss.item()
