"""From a head that routes to a static one while the network trains on: each class keeps the K weights that it routes most."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from dynamick.metrics import routing_start, routing_update


class StaticAfter(L.Callback):
    """After some epochs each class keeps at most K weights: those that training images routed most in the last of these.

    With at most K weights nothing is left to choose. The Dynamic-K head is then a linear head of its positive weights, and the
    network adapts to it. Decay has done its work on the head, so it becomes that of the other weights. Pruning comes before the
    epoch's validation, so figures and files of that epoch are the pruned head's. The mask is kept in the checkpoint.

    Args:
        epochs: from 1 up.
        weight_decay: of the head's weight from then on.
    """

    def __init__(self, epochs: int, weight_decay: float) -> None:
        self.epochs, self.weight_decay = epochs, weight_decay
        self.hook: Any = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch != self.epochs - 1:
            return
        self.counts = routing_start(pl_module.head.weight)
        self.hook = pl_module.head.register_forward_pre_hook(self._count)

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.hook is None:
            return
        self.hook.remove()
        self.hook = None
        used = self.counts.used
        used = trainer.strategy.reduce(used, reduce_op="sum") if trainer.world_size > 1 else used
        optimizer = trainer.optimizers[0]
        keep_most_used(pl_module.head, used, optimizer)
        optimizer.param_groups[-1]["weight_decay"] = self.weight_decay

    @torch.no_grad()
    def _count(self, head: Any, inputs: tuple[Tensor, ...]) -> None:
        self.counts = routing_update(self.counts, inputs[0].float(), head)


@torch.no_grad()
def keep_most_used(head: Any, used: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Mask the weights of a Dynamic-K head, except the K of each class that are used most; of equal ones the lower index.

    Args:
        head: a `DynamicLinear` of C classes and M inputs.
        used: how often each weight was used, shape (C, M).
        optimizer: its momentum of the head's weight is pruned too. Otherwise it would bring weights back.
    """
    order = used.argsort(dim=1, descending=True, stable=True)[:, : head.k]
    keep = torch.zeros_like(used, dtype=torch.bool).scatter_(1, order, True) & (used > 0)
    head.set_mask(keep)
    for tensor in (head.weight, *optimizer.state[head.weight].values()):
        if isinstance(tensor, Tensor) and tensor.shape == keep.shape:
            tensor.masked_fill_(~keep, 0)
