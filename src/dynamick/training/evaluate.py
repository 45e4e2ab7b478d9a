"""Accuracy, sparsity and routing of a trained model on its validation images."""

from typing import Any

import lightning as L

from dynamick import models
from dynamick.data.recipe import DataRecipe, open_images
from dynamick.errors import InputError
from dynamick.networks.classes import classes_of
from dynamick.training.data import VAL_BATCH
from dynamick.training.losses import Loss
from dynamick.training.module import Classifier, outputs_of
from dynamick.training.recipe import OptimRecipe
from dynamick.training.run import quiet

SMALL_BATCH = 64
"""Images that are decoded for each batch are large."""


def evaluate(model: Any, recipe: DataRecipe) -> dict[str, float]:
    """The figures of a training's epochs (top1, top5, sparsity, routing) for a model, in float32.

    Args:
        model: any network whose head is a linear classifier, with its `preprocessing` and `classes`.
        recipe: the data; its validation images are used.

    Raises:
        InputError: the data is missing, or of other classes than the model's; or the model has no classifier.
    """
    try:
        outputs = outputs_of(model.get_submodule(models.head_name(model)))
    except ValueError as error:
        raise InputError(str(error)) from None
    data = open_images(recipe, "val")
    # Without names the outputs are in the order of the classes.
    known = getattr(model, "classes", None) or (data.classes if outputs == len(data.classes) else classes_of(None, outputs))
    if data.classes != known:
        raise InputError(
            f"{recipe.where}: {len(data.classes)} classes ({', '.join(data.classes[:3])}, ...), but the model knows "
            f"{len(known)} ({', '.join(known[:3])}, ...); give the data that it was trained for"
        )
    with quiet():
        trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        classifier = Classifier(model, OptimRecipe(), loss=Loss(several=data.labels.ndim == 2))
        [figures] = trainer.validate(classifier, data.batches(VAL_BATCH if data.in_memory else SMALL_BATCH), verbose=False)
    return {name: float(value) for name, value in figures.items()}
