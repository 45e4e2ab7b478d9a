"""Averaged weights: an exponential moving average of the network, which is measured and written in its place."""

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel


class Averaging(L.Callback):
    """Keeps the average of a network's weights and buffers (`torch.optim.swa_utils`), and shows it as `module.averaged`.

    Args:
        decay: of the average a step; the first steps' is lower, (1 + step) / (10 + step), so that it forgets its beginning.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        self.average = AveragedModel(pl_module.model, avg_fn=self._mean, use_buffers=True).requires_grad_(False).eval()

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        # By now the state of an interrupted run is in place.
        self.average.to(pl_module.device)
        pl_module.averaged = [self.average.module]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        self.average.update_parameters(pl_module.model)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average.load_state_dict(state_dict["average"])

    def _mean(self, average: Tensor, new: Tensor, steps: Any) -> Tensor:
        if not average.is_floating_point():
            return new
        decay = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        return torch.lerp(new, average, decay)
