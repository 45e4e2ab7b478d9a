"""The Lightning module: any model with a head, trained by SGD or Interpretable SGD, measured each epoch."""

import math
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from dynamick.errors import InputError
from dynamick.metrics import routing_compute, routing_start, routing_update, sparsity
from dynamick.metrics.routing import RoutingCounts
from dynamick.models import Network, head_of
from dynamick.optim import InterpretableSGD
from dynamick.seeding import seed_of
from dynamick.training.recipe import OptimRecipe

SWING = 0.05
"""`onecycle` lowers the momentum by this much where the rate is highest, and raises it by as much at both ends."""


class Classifier(L.LightningModule):
    """Cross entropy by SGD or Interpretable SGD; each epoch logs top-1, top-5, losses, sparsity and routing.

    Args:
        model: made by `dynamick.models.create`; it prepares images by its own `preprocessing`.
        recipe: the optimiser's settings.
        channels_last: the memory format of images and convolutions, if PyTorch computes these safely.
        seed: of the weights that Interpretable SGD draws.
    """

    def __init__(self, model: Network, recipe: OptimRecipe, channels_last: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last and not _has_thin_cells(model) else torch.contiguous_format
        self.model = model
        self.model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.recipe, self.seed, self.head = recipe, seed, head_of(model)
        classes = model.fc.out_features
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.top1 = MulticlassAccuracy(classes, average="micro")
        self.top5 = MulticlassAccuracy(classes, top_k=min(5, classes), average="micro")
        self.counts: RoutingCounts = routing_start(model.fc.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Images uint8 (B, 3, H, W) to logits (B, classes)."""
        logits: Tensor = self.model(self._prepare(images))
        return logits

    def on_train_epoch_start(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        if isinstance(optimizer, InterpretableSGD) and optimizer.generator is not None:
            # Like batches, draws depend only on the seed and the epoch. Every process has draws of its own.
            epoch, rank = self.trainer.current_epoch, self.trainer.global_rank
            optimizer.generator.manual_seed(seed_of((self.seed << 40) + (rank << 20) + epoch))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images).float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.train_loss.update(loss.detach(), len(labels))
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
        strength = getattr(self.recipe, self.head.strength) if self.head.strength else 0.0
        self.head.after_step(self.model.fc.weight, optimizer.param_groups[-1]["lr"], strength)

    def on_validation_epoch_start(self) -> None:
        self.counts = routing_start(self.model.fc.weight)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        features = self.model.features(self._prepare(images)).float()
        logits = self.model.fc(features).float()
        self.counts = routing_update(self.counts, features, self.model.fc)
        if len(labels):
            self.val_loss.update(F.cross_entropy(logits, labels), len(labels))
            self.top1.update(logits, labels)
            self.top5.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        self.counts = RoutingCounts(*(self._over_all(each) for each in self.counts))
        routed, dead = routing_compute(self.counts)
        sparse = sparsity(self.model.fc.weight)
        values = {
            "top1": 100 * _take(self.top1),
            "top5": 100 * _take(self.top5),
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
        return self.model.preprocessing(images).contiguous(memory_format=self.memory_format)

    def _over_all(self, values: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(values, reduce_op="sum") if self.trainer.world_size > 1 else values


def parameter_groups(model: Network, recipe: OptimRecipe) -> list[dict[str, Any]]:
    """The optimiser's groups for a network's head; the last one is the head's weight, with a decay of its own."""
    decay = recipe.weight_decay if recipe.head_weight_decay is None else recipe.head_weight_decay
    return head_of(model).groups(model, recipe.weight_decay, decay)


def make_optimizer(model: Network, recipe: OptimRecipe) -> SGD:
    """SGD. If the recipe gives s: Interpretable SGD on the head's weight, with a generator of its own."""
    groups = parameter_groups(model, recipe)
    settings: dict[str, Any] = {"lr": recipe.lr, "momentum": recipe.momentum, "nesterov": recipe.nesterov}
    if recipe.s is None:
        return SGD(groups, **settings)
    for group in groups[:-1]:
        group["s"] = None
    sampling = {name: getattr(recipe, name) for name in ("s", "block_size", "form", "beta", "estimate")}
    generator = torch.Generator(model.fc.weight.device)
    return InterpretableSGD(groups, **settings, **sampling, model=model, generator=generator)


def schedule(optimizer: SGD, recipe: OptimRecipe, steps: int, epochs: int | None = None) -> LRScheduler:
    """The learning rate by step, of `steps` in all, in so many epochs (by default the recipe's)."""
    # OneCycleLR divides by zero if the rise would take one step or less.
    if recipe.schedule == "onecycle" and steps * recipe.warmup > 1:
        least, most = (round(recipe.momentum + change, 10) for change in (-SWING, SWING))
        swings = least >= 0 and most < 1
        return OneCycleLR(
            optimizer, recipe.lr, steps, pct_start=recipe.warmup, cycle_momentum=swings, base_momentum=least, max_momentum=most
        )
    if recipe.schedule in ("onecycle", "cosine"):
        return CosineAnnealingLR(optimizer, steps)
    every = max(1, steps * recipe.step_epochs // (epochs or recipe.epochs))
    # The paper divides "by a factor" that it does not name; 10 is the convention (docs/definitions.md, "Models and recipes").
    return LambdaLR(optimizer, lambda step: 0.1 ** (step // every))


def _has_thin_cells(model: torch.nn.Module) -> bool:
    """Whether a 1x1 convolution sees fewer than 8 channels.

    PyTorch 2.13's backward pass of these writes outside its memory if they are channels-last and the CPU has only AVX2.
    """
    convolutions = (each for each in model.modules() if isinstance(each, torch.nn.Conv2d))
    return any(each.kernel_size == (1, 1) and each.in_channels < 8 for each in convolutions)


def _take(metric: Metric) -> float:
    """A metric's value over all processes; it begins anew."""
    value = float(metric.compute())
    metric.reset()
    return value
