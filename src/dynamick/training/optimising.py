"""Groups of parameters, the optimiser and its schedule, as a recipe says."""

from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from dynamick import optim
from dynamick.models import head_name
from dynamick.nn import unit_layer
from dynamick.optim import InterpretableSGD
from dynamick.training.optim_recipe import OptimRecipe

SWING = 0.05
"""`onecycle` lowers the momentum by this much where the rate is highest, and raises it by as much at both ends."""
SECOND_BETA = 0.999
"""Of AdamW."""


def parameter_groups(model: nn.Module, recipe: OptimRecipe) -> list[dict[str, Any]]:
    """The optimiser's groups; the last one is the head's weight, with a decay of its own.

    If the recipe gives the backbone a rate of its own, it is the first group, without the units and the head's bias.
    """
    body, head = optim.parameter_groups(model, recipe.weight_decay, recipe.head_decay)
    if recipe.backbone_lr is None:
        return [body, head]
    new = {id(parameter) for parameter in new_parameters(model)}
    parts = {old: [each for each in body["params"] if (id(each) not in new) == old] for old in (True, False)}
    backbone = {**body, "params": parts[True], "lr": recipe.backbone_lr}
    return [backbone, {**body, "params": parts[False]}, head]


def new_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those of the units and of the head; all others are the backbone's."""
    units = unit_layer(model)
    layers = [model.get_submodule(head_name(model)), *([] if units is None else [units])]
    return [parameter for layer in layers for parameter in layer.parameters()]


def make_optimizer(model: nn.Module, recipe: OptimRecipe) -> Optimizer:
    """SGD or AdamW. If the recipe gives s: Interpretable SGD on the head's weight, with a generator of its own."""
    groups = [group for group in parameter_groups(model, recipe) if group["params"]]
    if recipe.optimizer == "adamw":
        return AdamW(groups, recipe.lr, (recipe.momentum, SECOND_BETA))
    settings: dict[str, Any] = {"lr": recipe.lr, "momentum": recipe.momentum, "nesterov": recipe.nesterov}
    if recipe.s is None:
        return SGD(groups, **settings)
    for group in groups[:-1]:
        group["s"] = None
    sampling = {name: getattr(recipe, name) for name in ("s", "block_size", "form", "beta", "estimate")}
    generator = torch.Generator(groups[-1]["params"][0].device)
    return InterpretableSGD(groups, **settings, **sampling, model=model, generator=generator)


def schedule(optimizer: Optimizer, recipe: OptimRecipe, steps: int, epochs: int | None = None) -> LRScheduler:
    """The learning rate by step, of `steps` in all, in so many epochs (by default the recipe's)."""
    # OneCycleLR divides by zero if the rise would take one step or less.
    if recipe.schedule == "onecycle" and steps * recipe.warmup > 1:
        least, most = (round(recipe.momentum + change, 10) for change in (-SWING, SWING))
        swings = least >= 0 and most < 1
        rates = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(
            optimizer, rates, steps, pct_start=recipe.warmup, cycle_momentum=swings, base_momentum=least, max_momentum=most
        )
    if recipe.schedule in ("onecycle", "cosine"):
        return CosineAnnealingLR(optimizer, steps)
    every = max(1, steps * recipe.step_epochs // (epochs or recipe.epochs))
    # The paper divides "by a factor" that it does not name; 10 is the convention (docs/definitions.md, "Models and recipes").
    return LambdaLR(optimizer, lambda step: 0.1 ** (step // every))
