"""Heads that an optimiser trains step by step: on features alone, or together with learnt units (`dynamick.retrofit`)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dynamick.comparison.heads.fitted import L2, Clock, Fitted, linear
from dynamick.comparison.heads.tuning import held_out
from dynamick.comparison.logistic import Problem, Solution, solve, standardise, unscale

EPOCHS = 3
STEPS = 300
"""The least number of steps, also for few images."""
BATCH = 512
RATE = 0.02
DECAYS = (0.5, 3.0, 12.0)
"""Of a weight, on features of deviation 1, to choose from; AdamW's."""


class Stepped:
    """A head that an optimiser trains step by step. This one is dense; another kind overrides what differs."""

    def layer(self, inputs: int, classes: int, bias: bool = True, device: Any = None) -> nn.Linear:
        """The layer that is trained."""
        return nn.Linear(inputs, classes, bias, device)

    def begin(self, layer: Any) -> None:
        """Before the first step, once the layer has its first weights. What is trained is `trained_weight` from here on."""

    def after_step(self, layer: Any, progress: float, optimizer: torch.optim.Optimizer) -> None:
        """After each step of the optimiser.

        Args:
            layer: what is trained.
            progress: the share of the steps that are done, 0..1.
            optimizer: it has just made a step.
        """

    def end(self, layer: Any) -> None:
        """After the last step: the layer becomes a plain one, with the weights that it computed with."""
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight")


def trained_weight(layer: Any) -> Tensor:
    """The weight that an optimiser changes. A head may compute with another one, made of it."""
    weight: Tensor = layer.parametrizations.weight.original if parametrize.is_parametrized(layer, "weight") else layer.weight
    return weight


def rates(optimizer: torch.optim.Optimizer, weight: Tensor) -> Tensor:
    """By what AdamW's last step multiplied the gradient's running mean, for each entry of a weight: lr / (sqrt(v) + eps)."""
    group = next(each for each in optimizer.param_groups if any(one is weight for one in each["params"]))
    state = optimizer.state[weight]
    v: Tensor = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
    return group["lr"] / (v.sqrt() + group["eps"])


def descend(head: Stepped, layer: nn.Linear, x: Tensor, labels: Tensor, decay: float, seed: int, epochs: int = EPOCHS) -> None:
    """Train a layer on features (N, M), in place: AdamW, cosine schedule.

    Args:
        head: says what happens beside the optimiser's steps.
        layer: with its first weights.
        x, labels: as in `elastic_net.fit`.
        decay: of the weight.
        seed: of the order of the images.
        epochs: there are at least `STEPS` steps.
    """
    generator = torch.Generator().manual_seed(seed)
    head.begin(layer)
    groups = [{"params": [trained_weight(layer)], "weight_decay": decay}]
    groups += [] if layer.bias is None else [{"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    each_epoch = max(1, len(x) // BATCH)
    steps = max(STEPS, epochs * each_epoch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        if step % each_epoch == 0:
            order = torch.randperm(len(x), generator=generator).to(x.device)
        rows = order[step % each_epoch * BATCH :][:BATCH]
        loss = F.cross_entropy(layer(x[rows]), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        head.after_step(layer, (step + 1) / steps, optimizer)
        schedule.step()
    head.end(layer)


@dataclass(frozen=True)
class Begun:
    """Features of mean 0 and deviation 1, and the dense head on them. Every head begins there.

    Attributes:
        problem: the features and labels.
        mean, std: of the raw features.
        dense: the head.
    """

    problem: Problem
    mean: Tensor
    std: Tensor
    dense: Solution

    @classmethod
    def of(cls, x: Tensor, labels: Tensor, classes: int, start: tuple[Tensor, Tensor] | None = None) -> "Begun":
        """Features (N, M); `start` is W and b from which the dense head is looked for."""
        scaled, mean, std = standardise(x)
        problem = Problem(scaled, labels, classes)
        return cls(problem, mean, std, solve(problem, l2=L2, start=start))

    def train(self, head: Stepped, decay: float, seed: int) -> nn.Linear:
        """A head on raw features, trained on these."""
        classes, M = self.dense.weight.shape
        layer = head.layer(M, classes, device=self.mean.device)
        with torch.no_grad():
            layer.weight.copy_(self.dense.weight)
            layer.bias.copy_(self.dense.bias)
        descend(head, layer, self.problem.x, self.problem.y, decay, seed)
        return linear(*unscale(layer.weight.detach(), layer.bias.detach(), self.mean, self.std))


def fit_tuned(
    make: Callable[[int], Stepped], x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0
) -> Iterator[Fitted]:
    """For each budget a head, its decay chosen among `DECAYS`: least cross entropy on every tenth image, trained on the others.

    Args:
        make: from a budget to its kind of head.
        x, labels, classes, budgets: as in `elastic_net.fit`.
        seed: of the order of the images.
    """
    clock = Clock()
    whole = Begun.of(x, labels, classes)
    held = held_out(labels)
    # A class may have no image in the part: its best bias is then found from a start.
    part = Begun.of(x[~held], labels[~held], classes, (whole.dense.weight, whole.dense.bias))
    shared = clock()
    for budget in sorted(budgets):
        clock, head = Clock(), make(budget)
        losses = {decay: _loss(part.train(head, decay, seed), x[held], labels[held]) for decay in DECAYS}
        decay = min(losses, key=lambda each: losses[each])
        yield Fitted(budget, whole.train(head, decay, seed), shared + clock(), {"decay": decay})


def _loss(head: nn.Linear, x: Tensor, labels: Tensor) -> float:
    return F.cross_entropy(head(x), labels).item()
