"""The Lightning module: any network with a head, trained by a recipe, measured each epoch."""

import math
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision

from dynamick.errors import InputError
from dynamick.metrics import routing_compute, routing_start, routing_update, sparsity
from dynamick.metrics.routing import RoutingCounts
from dynamick.models import head_name, head_of
from dynamick.models.heads import TrainedHead
from dynamick.networks.running import logits_of
from dynamick.optim import InterpretableSGD
from dynamick.seeding import seed_of
from dynamick.training.augmenting import Augmenting
from dynamick.training.losses import Loss
from dynamick.training.optim_recipe import OptimRecipe
from dynamick.training.optimising import make_optimizer, schedule


class Classifier(L.LightningModule):
    """A network trained by SGD, AdamW or Interpretable SGD; each epoch logs accuracy, losses, sparsity and routing.

    Args:
        model: prepares images by its own `preprocessing`; its head is `fc` if it is this project's, else at its `head_name`.
        recipe: the optimiser's settings.
        channels_last: the memory format of images and convolutions, if PyTorch computes these safely.
        seed: of dropout, and of the weights that Interpretable SGD draws.
        kind: of the head; None looks at its layer.
        loss: what is minimised; None is cross entropy with the recipe's smoothing.
        augmenting: what training images go through; None changes nothing.

    Attributes:
        averaged: the network of averaged weights alone, where there is one (`Averaging`).

    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> module = dk.training.Classifier(model, dk.training.OptimRecipe(epochs=1, lr=0.1))
    >>> module(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        model: Any,
        recipe: OptimRecipe,
        channels_last: bool = True,
        seed: int = 0,
        kind: TrainedHead | None = None,
        loss: Loss | None = None,
        augmenting: Augmenting | None = None,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last and not _has_thin_cells(model) else torch.contiguous_format
        self.model: Any = model
        self.model.to(memory_format=self.memory_format)
        self.averaged: list[Any] = []
        self.head_name = head_name(model)
        self.recipe, self.seed, self.kind = recipe, seed, kind or head_of(model)
        self.loss, self.augmenting = loss or Loss(recipe.label_smoothing), augmenting
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.scores = _scores(outputs_of(self.head), self.loss.several)
        self.counts: RoutingCounts = routing_start(self.head.weight.flatten(1))

    @property
    def evaluated(self) -> Any:
        """The network that is measured and written: of averaged weights where there are any."""
        return self.averaged[0] if self.averaged else self.model

    @property
    def head(self) -> Any:
        """The head of the network that trains."""
        return self.model.get_submodule(self.head_name)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 or 0..1, to logits (B, classes)."""
        return logits_of(self.model(self._prepare(images)))

    def on_train_epoch_start(self) -> None:
        # Like batches, draws depend only on the seed and the epoch. Every process has draws of its own.
        epoch, rank = self.trainer.current_epoch, self.trainer.global_rank
        drawn = seed_of((self.seed << 40) + (rank << 20) + epoch)
        L.seed_everything(drawn, verbose=False)
        optimizer = self.optimizers(use_pl_optimizer=False)
        if isinstance(optimizer, InterpretableSGD) and optimizer.generator is not None:
            optimizer.generator.manual_seed(drawn)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, targets = batch
        if self.augmenting is not None:
            images, targets = self.augmenting(images, targets, (self.trainer.current_epoch, index, self.trainer.global_rank))
        loss = self.loss(self(images).float(), targets, images)
        self.train_loss.update(loss.detach(), len(targets))
        return loss

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if isinstance(optimizer.optimizer, InterpretableSGD):
            # Lightning would pass the closure on. Here it runs first.
            optimizer_closure()
            trainer = self.trainer
            self.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
            optimizer.optimizer.step()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        strength = getattr(self.recipe, self.kind.strength) if self.kind.strength else 0.0
        self.kind.after_step(self.head.weight, optimizer.param_groups[-1]["lr"], strength)

    def on_validation_epoch_start(self) -> None:
        self.evaluated.eval()
        self.counts = routing_start(self.head.weight.flatten(1))

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, targets = batch
        if not len(targets):
            return
        model = self.evaluated
        head, seen = model.get_submodule(self.head_name), []
        hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = logits_of(model(self._prepare(images))).float()
        finally:
            hook.remove()
        self.counts = routing_update(self.counts, _vectors(seen[0]).float(), _linear(head))
        self.val_loss.update(self.loss.plain(logits, targets), len(targets))
        scores: Any = self.scores.values()
        for score in scores:
            score.update(logits, targets)

    def on_validation_epoch_end(self) -> None:
        self.counts = RoutingCounts(*(self._over_all(each) for each in self.counts))
        routed, dead = routing_compute(self.counts)
        sparse = sparsity(self.evaluated.get_submodule(self.head_name).weight.flatten(1))
        values = {
            **{name: 100 * _take(score) for name, score in self.scores.items()},
            "val_loss": _take(self.val_loss),
            "sparse_share": sparse.sparse_share,
            "weights_per_class": sparse.weights_per_class,
            "weights_per_class_max": sparse.max_per_class,
            "routed_units": routed,
            "dead_units": dead,
        }
        if self.trainer.state.fn == "fit":
            values = {"train_loss": _take(self.train_loss), **values}
        values_64 = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
        self.log_dict(values_64, sync_dist=self.trainer.world_size > 1)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model, self.recipe)
        steps, epochs = self.trainer.estimated_stepping_batches, self.trainer.max_epochs or 0
        if not math.isfinite(steps):
            raise InputError(
                "max_epochs: the schedule of the learning rate needs an end; give the Trainer max_epochs or max_steps"
            )
        given = epochs if epochs > 0 else None
        return [optimizer], [{"scheduler": schedule(optimizer, self.recipe, int(steps), given), "interval": "step"}]

    def _prepare(self, images: Tensor) -> Tensor:
        prepared: Tensor = self.model.preprocessing(images)
        return prepared.contiguous(memory_format=self.memory_format)

    def _over_all(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum") if self.trainer.world_size > 1 else values


def outputs_of(head: Any) -> int:
    """How many classes a head puts out; of capsules each has several rows of the weight."""
    return int(getattr(head, "out_features", len(head.weight)))


def _scores(classes: int, several: bool) -> nn.ModuleDict:
    """What says how good the logits are, 0..1: top-1 and top-5; of several labels an image the mean average precision."""
    if several:
        return nn.ModuleDict({"map": MultilabelAveragePrecision(classes)})
    top1 = MulticlassAccuracy(classes, average="micro")
    return nn.ModuleDict({"top1": top1, "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")})


def _vectors(features: Tensor) -> Tensor:
    """What enters a head as (B, M): a 1x1 convolution sees maps, of which the means are taken."""
    return features.flatten(2).mean(2) if features.ndim == 4 else features.reshape(-1, features.shape[-1])


def _linear(head: Any) -> Any:
    """A head whose weight has the shape (classes, inputs), also of a 1x1 convolution."""
    return SimpleNamespace(weight=head.weight.flatten(1)) if isinstance(head, nn.Conv2d) else head


def _has_thin_cells(model: nn.Module) -> bool:
    """Whether a 1x1 convolution sees fewer than 8 channels.

    PyTorch 2.13's backward pass of these writes outside its memory if they are channels-last and the CPU has only AVX2.
    """
    convolutions = (each for each in model.modules() if isinstance(each, nn.Conv2d))
    return any(each.kernel_size == (1, 1) and each.in_channels < 8 for each in convolutions)


def _take(metric: Metric | Any) -> float:
    """A metric's value over all processes; it begins anew."""
    value = float(metric.compute())
    metric.reset()
    return value
