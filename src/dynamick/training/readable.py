"""For a Lightning training of one's own: K falls, and at the end what no image routes is removed."""

from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
from torch import Tensor, nn

from dynamick.nn import find_classifier
from dynamick.training.pruning import Pruned, prune
from dynamick.training.stages import FallingK


class Readable(L.Callback):
    """A Lightning callback for a converted network: `dynamick.KSchedule` in the training, `dynamick.prune` at its end.

    The decay of the head is the optimiser's: give it `dynamick.parameter_groups(model)`.

    Args:
        model: the converted network; the LightningModule holds it.
        images: gives all training images as they are evaluated, prepared, in batches of (B, C, H, W). None prunes nothing.
        k_start: K of the first step; None leaves K as it is.

    Attributes:
        pruned: what was removed, after the training.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    >>> readable = dk.training.Readable(dk.convert(net, k=2), k_start=8)  # for Trainer(callbacks=[readable])
    >>> readable.pruned is None
    True
    """

    pruned: Pruned | None = None

    def __init__(
        self, model: nn.Module, images: Callable[[], Iterable[Tensor]] | None = None, k_start: int | None = None
    ) -> None:
        self.model, self.images = model, images
        k = getattr(model.get_submodule(find_classifier(model)), "k", 1)
        self.falling = None if k_start is None else FallingK(model, k_start, k)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.falling is not None:
            self.falling.on_train_start(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        if self.falling is not None:
            self.falling.on_train_batch_end(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.images is not None:
            device = next(self.model.parameters()).device
            self.pruned = prune(self.model, (batch.to(device) for batch in self.images()))
