"""What changes in the course of a training: a backbone that is frozen at first, a K that falls, an early end."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from dynamick.optim import KSchedule
from dynamick.training.optim_recipe import STOP_METRICS
from dynamick.training.optimising import new_parameters


class Frozen(L.Callback):
    """For some epochs only units and head learn; the backbone's normalisation uses its own running statistics meanwhile.

    Args:
        epochs: from 1 up.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        frozen, model = trainer.current_epoch < self.epochs, pl_module.model
        new = {id(parameter) for parameter in new_parameters(model)}
        for parameter in model.parameters():
            parameter.requires_grad_(not frozen or id(parameter) in new)
        model.train()
        norms = [module for module in model.modules() if hasattr(module, "running_mean")] if frozen else []
        for module in norms:
            if not any(id(parameter) in new for parameter in module.parameters()):
                module.eval()


class FallingK(L.Callback):
    """K falls from its first value to the head's own in half of the steps (`dynamick.KSchedule`).

    Args:
        model: the network that trains; its average, if the module has one, goes with it.
        k_start, k: the first and the last value.
    """

    def __init__(self, model: nn.Module, k_start: int, k: int) -> None:
        self.model, self.k_start, self.k = model, k_start, k

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        networks = nn.ModuleList([self.model, *getattr(pl_module, "averaged", [])])
        self.schedule = KSchedule(networks, self.k_start, self.k, int(trainer.estimated_stepping_batches))
        # A training that goes on is not at its first step.
        self._follow(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self._follow(trainer)

    def _follow(self, trainer: L.Trainer) -> None:
        self.schedule.load_state_dict({"done": trainer.global_step})


class Stopping(EarlyStopping):
    """Lightning's early stopping; a run that was killed after it had stopped does not go on.

    Args:
        epochs: so many without anything better end the training.
        metric: one of `STOP_METRICS`.
    """

    def __init__(self, epochs: int, metric: str) -> None:
        super().__init__(metric, patience=epochs, mode=STOP_METRICS[metric])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.wait_count >= self.patience:
            trainer.should_stop = True
