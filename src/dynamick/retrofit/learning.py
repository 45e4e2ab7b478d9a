"""Units and a head learnt together on frozen maps (docs/definitions.md, "Unit layer")."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamick.comparison.heads.dynamic import Routed
from dynamick.comparison.heads.stepped import Stepped, trained_weight
from dynamick.nn import UnitLayer
from dynamick.ops import torch_internals
from dynamick.retrofit.maps import Maps
from dynamick.retrofit.probe import passes
from dynamick.retrofit.shares import average_buffers, average_gradients, own_part
from dynamick.seeding import seed_of

MOST_STEPS = 4000
"""Many images are passed over less often. On 40,000 photographs a training of 12 passes is as good as one of 20."""
TIMED = 20
"""So many steps tell how long a training takes."""


@dataclass(frozen=True)
class Settings:
    """How units and head are learnt.

    Attributes:
        units: how many.
        k: how many units a class routes at most; None for a dense head.
        rule: `at_most` or `exactly`.
        head: of another kind, such as `StaticTopK(5)` of `dynamick.comparison.heads.static_top_k`; k and rule then say nothing.
        decay: of the head's weight; AdamW's, decoupled from the gradient.
        layer_decay: of the unit layer's convolution.
        epochs, batch, rate: AdamW with a one-cycle rate; where the epochs would be fewer than 200 steps, there are more,
            and fewer where they would be more than 4,000.
        head_rate: the head's rate is so many times the other one.
        smoothing: of the labels.
        teacher: the share of the loss that is the divergence from a teacher's probabilities, where there is one.
        seed: of the weights and the order of the images.
    """

    units: int = 256
    k: int | None = 5
    rule: str = "at_most"
    head: Stepped | None = None
    decay: float = 5.0
    layer_decay: float = 0.05
    epochs: int = 20
    batch: int = 128
    rate: float = 2e-3
    head_rate: float = 3.0
    smoothing: float = 0.1
    teacher: float = 0.8
    seed: int = 0

    @property
    def kind(self) -> Stepped:
        """The kind of head."""
        if self.head is not None:
            return self.head
        return Stepped() if self.k is None else Routed(self.k, self.rule)


class UnitHead(nn.Module):
    """A unit layer, the mean over locations, and a head: from frozen maps to logits.

    Args:
        channels: of the maps.
        units: of the layer.
        head: nn.Linear or DynamicLinear on so many units.
    """

    def __init__(self, channels: int, units: int, head: nn.Module) -> None:
        super().__init__()
        self.units, self.head = UnitLayer(channels, units), head

    def pooled(self, maps: Tensor) -> Tensor:
        """Maps (B, P, C) of P locations to the units' means (B, units), float32."""
        B, P, C = maps.shape
        weight = self.units.conv.weight.flatten(1)
        # The same as the layer's convolution; a matrix product takes the maps as they are stored.
        mixed = F.linear(maps.reshape(B * P, C), weight.to(maps.dtype))
        norm = self.units.norm
        normed = F.batch_norm(
            mixed.float(),
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            self.training,
            norm.momentum or 0,
            norm.eps,
        )
        if self.training and norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        return normed.relu().view(B, P, -1).mean(1)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, P, C) to logits (B, classes)."""
        logits: Tensor = self.head(self.pooled(maps))
        return logits


def compute_type() -> torch.dtype:
    """What maps are multiplied in: bfloat16 where the machine has instructions for it."""
    return torch.bfloat16 if torch_internals.has_bf16_instructions() else torch.float32


def learn(
    maps: Maps,
    labels: Tensor,
    classes: int,
    settings: Settings,
    teacher: Tensor | None = None,
    rows: Tensor | None = None,
    progress: Callable[[int], Any] | None = None,
) -> UnitHead:
    """Train a unit layer and a head on frozen maps.

    Args:
        maps: of N images.
        labels: int64, shape (N,).
        classes: how many.
        settings: how.
        teacher: logits of another classifier for all N images, shape (N, classes), or None.
        rows: which images to learn from, int64; None for all.
        progress: called after each epoch with the number of images seen in it.

    Returns:
        In evaluation mode, without gradients.
    """
    generator = torch.Generator().manual_seed(seed_of(settings.seed))
    rows = torch.arange(len(labels)) if rows is None else rows
    net = _new(maps.shape[2], classes, settings, generator)
    batch = min(settings.batch, len(rows))
    epochs = passes(settings.epochs, len(rows), batch, MOST_STEPS)
    kind, steps, done = settings.kind, epochs * (len(rows) // batch), 0
    kind.begin(net.head)
    optimizer, schedule = _optimizer(net, settings, steps)
    soft = None if teacher is None else teacher.softmax(1)
    dtype = compute_type()
    for _ in range(epochs):
        net.train()
        order = rows[torch.randperm(len(rows), generator=generator)]
        for chosen in order[: len(rows) // batch * batch].view(-1, batch):
            # Maps are read in the order in which they lie.
            places = own_part(chosen.sort().values)
            logits = net(maps[places].to(dtype))
            loss = F.cross_entropy(logits, labels[places], label_smoothing=settings.smoothing)
            if soft is not None:
                apart = F.kl_div(logits.log_softmax(1), soft[places], reduction="batchmean")
                loss = (1 - settings.teacher) * loss + settings.teacher * apart
            optimizer.zero_grad()
            loss.backward()
            average_gradients(net, len(places) / batch)
            optimizer.step()
            done += 1
            kind.after_step(net.head, done / steps, optimizer)
            schedule.step()
        if progress is not None:
            progress(len(rows))
    kind.end(net.head)
    average_buffers(net)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def pooled(net: UnitHead, maps: Maps, rows: Tensor | None = None) -> Tensor:
    """The units' means for some images, float32 (n, units), in evaluation mode."""
    rows, kind = torch.arange(maps.shape[0]) if rows is None else rows, compute_type()
    return torch.cat([net.pooled(maps[places].to(kind)) for places in rows.split(512)])


def seconds_of(maps: Maps, labels: Tensor, classes: int, settings: Settings) -> float:
    """About how long one training on all images takes: some of its steps are timed."""
    batch = min(settings.batch, len(labels))
    net = _new(maps.shape[2], classes, settings, torch.Generator().manual_seed(0)).train()
    settings.kind.begin(net.head)
    optimizer, _ = _optimizer(net, settings, TIMED + 2)
    places, began = torch.linspace(0, len(labels) - 1, batch).long(), 0.0
    for step in range(TIMED + 1):
        # The first one warms up.
        if step == 1:
            began = time.monotonic()
        optimizer.zero_grad()
        F.cross_entropy(net(maps[places].to(compute_type())), labels[places]).backward()
        optimizer.step()
    steps = passes(settings.epochs, len(labels), batch, MOST_STEPS) * (len(labels) // batch)
    return (time.monotonic() - began) / TIMED * steps


def _new(channels: int, classes: int, settings: Settings, generator: torch.Generator) -> UnitHead:
    """A new network; its weights come of the generator alone."""
    units = settings.units
    head = settings.kind.layer(units, classes)
    net = UnitHead(channels, units, head)
    with torch.no_grad():
        for weight, inputs in ((net.units.conv.weight, channels), (head.weight, units)):
            weight.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
        head.bias.zero_()
    return net


def _optimizer(net: UnitHead, settings: Settings, steps: int) -> tuple[torch.optim.Optimizer, Any]:
    head: Any = net.head
    groups = [([net.units.conv.weight], settings.layer_decay), ([*net.units.norm.parameters(), head.bias], 0.0)]
    groups += [([trained_weight(head)], settings.decay)]
    rates = [settings.rate, settings.rate, settings.rate * settings.head_rate]
    optimizer = torch.optim.AdamW([{"params": p, "weight_decay": d} for p, d in groups], settings.rate, fused=True)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps)
