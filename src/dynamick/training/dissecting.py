"""Network Dissection during training: how the scores of a layer's units grow (Fig. 5c)."""

# isort: off
from typing import Any

# Before lightning, which imports torchvision.
from dynamick.torchvision_shim import torchvision  # noqa: F401
import lightning as L

# isort: on

from dynamick.data.concepts import ConceptDataset
from dynamick.dissection import dissect
from dynamick.errors import InputError


class DissectEvery(L.Callback):
    """Dissects a layer after every `every` epochs; logs `dissection/mean_score` and `dissection/detectors`.

    Args:
        dataset: images with label maps.
        layer: dotted name within the model that is trained (`module.model`).
        every: epochs between two dissections, from 1 up.
        options: further arguments of `dynamick.dissection.dissect`.

    Attributes:
        history: pairs of epoch (from 1 up) and mean score, for `dynamick.dissection.plots.score_over_training`.

    Raises:
        InputError: `every` is below 1; while training as `dissect`.
    """

    def __init__(self, dataset: ConceptDataset, layer: str, every: int = 1, **options: Any) -> None:
        if every < 1:
            raise InputError(f"every: {every} epochs; give an integer from 1 up")
        self.dataset, self.layer, self.every = dataset, layer, every
        self.options = {"progress": False, **options}
        self.history: list[tuple[int, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every:
            return
        found = dissect(getattr(pl_module, "model", pl_module), self.layer, self.dataset, **self.options).summary()
        self.history.append((epoch, found.mean_score))
        pl_module.log("dissection/mean_score", found.mean_score)
        pl_module.log("dissection/detectors", float(found.detectors))

    def state_dict(self) -> dict[str, Any]:
        return {"history": [list(pair) for pair in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = [(int(epoch), float(score)) for epoch, score in state_dict["history"]]
