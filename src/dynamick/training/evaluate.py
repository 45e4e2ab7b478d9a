"""Accuracy, sparsity and routing of a trained model on its validation images."""

from typing import Any

import lightning as L

from dynamick import models
from dynamick.data.recipe import DataRecipe, open_images
from dynamick.errors import InputError
from dynamick.training.data import VAL_BATCH
from dynamick.training.module import Classifier
from dynamick.training.recipe import OptimRecipe
from dynamick.training.run import quiet


def evaluate(model: Any, recipe: DataRecipe) -> dict[str, float]:
    """The figures of a training's epochs (top1, top5, sparsity, routing) for a model, in float32.

    Args:
        model: made by `dynamick.models.create`.
        recipe: the data; its validation images are used.

    Raises:
        InputError: the model is another's, the data is missing, or of other classes than the model's.
    """
    if not isinstance(model, models.Network):
        raise InputError(
            f"model: a {type(model).__name__} is not one of this project's networks, whose figures these are; "
            "retrofit.json holds those of what retrofit wrote"
        )
    data = open_images(recipe, "val")
    if data.classes != model.classes:
        raise InputError(
            f"{recipe.where}: {len(data.classes)} classes ({', '.join(data.classes[:3])}, ...), but the model knows "
            f"{len(model.classes)} ({', '.join(model.classes[:3])}, ...); give the data that it was trained for"
        )
    with quiet():
        trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        [figures] = trainer.validate(Classifier(model, OptimRecipe()), data.batches(VAL_BATCH), verbose=False)
    return {name: float(value) for name, value in figures.items()}
