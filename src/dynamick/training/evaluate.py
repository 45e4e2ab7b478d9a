"""Accuracy, sparsity and routing of a trained model on its validation images."""

from typing import Any

import lightning as L

from dynamick import models
from dynamick.data.recipe import DataRecipe, open_images
from dynamick.errors import InputError
from dynamick.networks.classes import classes_of
from dynamick.progress import bar
from dynamick.training.data import VAL_BATCH
from dynamick.training.losses import Loss
from dynamick.training.module import Classifier, outputs_of
from dynamick.training.recipe import OptimRecipe
from dynamick.training.run import quiet

SMALL_BATCH = 64
"""Images that are decoded for each batch are large."""


class _Shown(L.Callback):
    """A bar that says how many batches are evaluated."""

    def on_validation_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.bar = bar("evaluating", int(sum(trainer.num_val_batches)), unit="batches")

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self.bar.update(1)

    def on_validation_end(self, *_: Any) -> None:
        self.bar.close()


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
        quiet_trainer: dict[str, Any] = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        trainer = L.Trainer(callbacks=[_Shown()], **quiet_trainer)
        classifier = Classifier(model, OptimRecipe(), loss=Loss(several=data.labels.ndim == 2))
        [figures] = trainer.validate(classifier, data.batches(VAL_BATCH if data.in_memory else SMALL_BATCH), verbose=False)
    return {name: float(value) for name, value in figures.items()}
