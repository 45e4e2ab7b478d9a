"""Network Dissection during training: how the scores of a layer's units grow (Fig. 5c)."""

from typing import Any

import lightning as L
import torch

from dynamick.data.concepts import ConceptDataset
from dynamick.dissection import dissect
from dynamick.errors import InputError


class DissectEvery(L.Callback):
    """Dissects a layer after every `every` epochs and after the last; logs `dissection/mean_score` and `dissection/detectors`.

    Args:
        dataset: images with label maps.
        layer: dotted name within the model that is trained (`module.model`).
        every: epochs between two dissections, from 1 up.
        options: further arguments of `dynamick.dissection.dissect`.

    Attributes:
        history: pairs of epoch (from 1 up) and mean score, for `dynamick.dissection.plots.score_over_training`.

    Raises:
        InputError: `every` is below 1; while training as `dissect`.

    >>> dk.data.ComposedScenes("val", 20, image_size=32).write_broden("scenes")
    >>> watch = dk.training.DissectEvery(dk.data.Broden("scenes"), "layer3", every=2)  # for train(..., callbacks=[watch])
    >>> watch.history
    []
    """

    def __init__(self, dataset: ConceptDataset, layer: str, every: int = 1, **options: Any) -> None:
        if every < 1:
            raise InputError(f"every: {every} epochs; give an integer from 1 up")
        self.dataset, self.layer, self.every = dataset, layer, every
        self.options = {"progress": False, **options}
        self.history: list[tuple[int, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if not self.due(epoch, trainer.max_epochs):
            return
        found = dissect(getattr(pl_module, "model", pl_module), self.layer, self.dataset, **self.options).summary()
        self.history.append((epoch, found.mean_score))
        figures = {"dissection/mean_score": found.mean_score, "dissection/detectors": found.detectors}
        pl_module.log_dict({name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items()})

    def due(self, epoch: int, last: int | None) -> bool:
        """Whether it dissects after this epoch (from 1 up) of a training that ends with `last`."""
        return epoch % self.every == 0 or epoch == last

    def state_dict(self) -> dict[str, Any]:
        return {"history": [list(pair) for pair in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(int(epoch), float(score)) for epoch, score in state_dict["history"]]
