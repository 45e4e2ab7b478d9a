"""Accuracy, sparsity and routing of a trained model on its validation images."""

from typing import Any

import lightning as L

from dynamick.data.images import Batches, FolderImages
from dynamick.errors import InputError
from dynamick.training.data import VAL_BATCH, load_images
from dynamick.training.module import Classifier
from dynamick.training.recipe import DataRecipe, OptimRecipe
from dynamick.training.run import quiet


def evaluate(model: Any, recipe: DataRecipe) -> dict[str, float]:
    """The figures of a training's epochs (top1, top5, sparsity, routing) for a model, in float32.

    Args:
        model: made by `dynamick.models.create`.
        recipe: the data; its validation images are used.

    Raises:
        InputError: the data is missing, or of other classes than the model's.
    """
    data = load_images(recipe, "val")
    if data.classes != model.classes:
        where = "generated scenes" if recipe.kind == "scenes" else recipe.root
        raise InputError(
            f"{where}: {len(data.classes)} classes ({', '.join(data.classes[:3])}, ...), but the model knows "
            f"{len(model.classes)} ({', '.join(model.classes[:3])}, ...); give the data that it was trained for"
        )
    loader: Any = data.batches(VAL_BATCH) if isinstance(data, FolderImages) else Batches(data, VAL_BATCH)
    with quiet():
        trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        [figures] = trainer.validate(Classifier(model, OptimRecipe()), loader, verbose=False)
    return {name: float(value) for name, value in figures.items()}
